import { borderSuite, containerSuite, markSuite, overlaySuite } from './suite/borders.ts';

borderSuite('nftables');
containerSuite('nftables');
markSuite('nftables');
overlaySuite('nftables');
