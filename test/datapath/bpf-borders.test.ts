import { borderSuite, containerSuite, markSuite, overlaySuite } from './suite/borders.ts';

borderSuite('bpf');
containerSuite('bpf');
markSuite('bpf');
overlaySuite('bpf');
