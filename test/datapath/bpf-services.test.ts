import { servicesSuite } from './suite/services.ts';

servicesSuite('bpf-services', { container: true });
