import type { Command } from 'commander';
import type { DoctorRecord } from '../../api/doctor-types.ts';
import { SHOWS_AGENT } from '../agent-socket.ts';
import { command, Option } from '../command.ts';
import { EXIT, type ExitCode } from '../exit-code.ts';
import { writeRecord } from '../output.ts';
import { doctorText } from './doctor-text.ts';
import { examine } from './examine.ts';
import { progressLine } from './progress.ts';

interface Options {
  readonly strict?: boolean;
}

const EXIT_OF: Readonly<Record<DoctorRecord['state'], ExitCode>> = {
  ok: EXIT.ok,
  degraded: EXIT.degraded,
  'not-joined': EXIT.notJoined,
  'not-running': EXIT.unreachable,
};

export function doctorCommand(): Command {
  return command<Options>({
    name: 'doctor',
    summary: 'Look at everything that can be wrong; the cause comes first, with what to do',
    details:
      'It works with the agent and without it: configuration, certificates, every endpoint of every store step by step (name, route, TCP, TLS, access, quorum), the machine (packet filter, rules of others, kernel, disk, clock), and, as far as the agent runs, its facts, the kernel and the overlay, with real packets. What it cannot look at is skipped, with the reason. Exit code: 0 fine or warnings only, 3 the agent does not run, 4 something is wrong, 5 not joined.',
    examples: [
      ['doctor', 'what to do first, then everything that was looked at'],
      ['doctor -o json', 'for programs'],
      ['doctor --strict', 'for a pipeline that takes no warnings'],
    ],
    shared: SHOWS_AGENT,
    options: [new Option('--strict', 'warnings count as errors in the exit code')],
    async run(call) {
      const { terminal, options } = call;
      const progress = progressLine(terminal);
      const record = await examine({ call, onProgress: progress.show }).finally(progress.clear);
      await writeRecord({
        terminal,
        format: options.output,
        record,
        table: (wide) => doctorText(record, { wide, color: terminal.color }),
      });
      const strict = options.strict === true && record.state === 'ok' && record.counts.warning > 0;
      return strict ? EXIT.degraded : EXIT_OF[record.state];
    },
  });
}
