import { type AgentClient, type ClientOptions, openClient } from '../api/client.ts';
import { socketPath } from '../config/load.ts';
import type { SharedOptions } from './command.ts';
import type { Terminal } from './terminal.ts';

/** The shared options that lead to the agent. */
export const ASKS_AGENT = ['config', 'stateDir', 'socket'] as const;
/** The same for a command that shows something. */
export const SHOWS_AGENT = [...ASKS_AGENT, 'output'] as const;

/** The agent that the options, the environment and the configuration name. */
export function askAgent(
  call: { readonly terminal: Terminal; readonly options: SharedOptions },
  limits: Pick<ClientOptions, 'silenceMs'> = {},
): AgentClient {
  const { config, stateDir, socket } = call.options;
  const path = socketPath({
    env: call.terminal.env,
    ...(config !== undefined && { file: config }),
    ...(stateDir !== undefined && { stateDir }),
    ...(socket !== undefined && { socket }),
  });
  return openClient({ socket: path, ...limits });
}
