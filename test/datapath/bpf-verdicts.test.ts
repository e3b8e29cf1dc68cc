import { verdictSuite } from './suite/verdicts.ts';

verdictSuite('bpf');
