import { randomSuite } from './suite/random.ts';

randomSuite('bpf');
