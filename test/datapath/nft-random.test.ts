import { randomSuite } from './suite/random.ts';

randomSuite('nftables');
