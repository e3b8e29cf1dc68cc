import { servicesSuite } from './suite/services.ts';

servicesSuite('nftables', { container: true });
