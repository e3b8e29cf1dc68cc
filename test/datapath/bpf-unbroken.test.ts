import { unbrokenSuite } from './suite/unbroken.ts';

unbrokenSuite('bpf');
