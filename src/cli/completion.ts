import type { Command } from 'commander';
import { Argument, command } from './command.ts';
import { completionScript, SHELLS, type Shell } from './completion-script.ts';
import { EXIT } from './exit-code.ts';
import { write } from './output.ts';

export function completionCommand(): Command {
  return command({
    name: 'completion',
    summary: 'Write a script that makes a shell complete the commands and options',
    examples: [
      ['completion bash > /etc/bash_completion.d/mesh-agent', 'for bash'],
      ['completion zsh > /usr/share/zsh/site-functions/_mesh-agent', 'for zsh'],
      ['completion fish > ~/.config/fish/completions/mesh-agent.fish', 'for fish'],
    ],
    shared: [],
    arguments: [new Argument('<shell>', 'whose script').choices(SHELLS)],
    async run({ terminal, args, program }) {
      await write(terminal.out, completionScript(program, args[0] as Shell));
      return EXIT.ok;
    },
  });
}
