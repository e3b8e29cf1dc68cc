import { borderSuite, overlaySuite } from './suite/borders.ts';
import { connectionSuite } from './suite/connections.ts';
import { unbrokenSuite } from './suite/unbroken.ts';

// Kernels before 6.6 have no tcx: the same programs as filters of the queueing discipline clsact.
borderSuite('bpf-clsact');
overlaySuite('bpf-clsact');
connectionSuite('bpf-clsact');
unbrokenSuite('bpf-clsact');
