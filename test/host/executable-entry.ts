import { build } from '../../src/host/build.ts';
import { native } from '../../src/host/load-native.ts';

// Built into an executable by executable.test.ts: shows that the facts of the build and the native module are inside.
process.stdout.write(JSON.stringify({ build, send: native().datagramSend('@mesh-agent-nobody', Buffer.from('x')) }));
