import { connectionSuite, olderConnectionSuite } from './suite/connections.ts';

connectionSuite('nftables');
olderConnectionSuite('nftables');
