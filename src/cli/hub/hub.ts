import type { Command } from 'commander';
import { group } from '../command.ts';
import { hubReloadCommand } from '../reload.ts';
import { auditCommand } from './audit.ts';
import { hubBackupCommand, hubRestoreCommand } from './backup.ts';
import { clusterCommands } from './cluster.ts';
import { hubInitCommand } from './init.ts';
import { hubPolicyCommands } from './policy.ts';
import { hubRunCommand } from './run.ts';
import { hubServiceCommands } from './service.ts';
import { hubStatusCommand } from './status.ts';
import { workloadCommands } from './workload.ts';

export function hubCommands(): Command {
  return group('hub', 'The control plane of a fleet of machines', [
    hubInitCommand(),
    hubRunCommand(),
    hubReloadCommand(),
    hubStatusCommand(),
    workloadCommands(),
    clusterCommands(),
    hubPolicyCommands(),
    hubServiceCommands(),
    auditCommand(),
    hubBackupCommand(),
    hubRestoreCommand(),
  ]);
}
