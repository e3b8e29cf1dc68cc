import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { troubleshootingPage } from './troubleshooting-page.ts';

/** Writes docs/troubleshooting.md anew: `node packaging/troubleshooting.ts`. */
writeFileSync(join(import.meta.dirname, '../docs/troubleshooting.md'), troubleshootingPage());
