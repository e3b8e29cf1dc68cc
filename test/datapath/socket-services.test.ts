import { servicesSuite } from './suite/services.ts';

servicesSuite('sockets', { container: false });
