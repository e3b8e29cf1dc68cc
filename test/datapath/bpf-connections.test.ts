import { connectionSuite, olderConnectionSuite } from './suite/connections.ts';

connectionSuite('bpf');
olderConnectionSuite('bpf');
