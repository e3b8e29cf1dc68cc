import { join } from 'node:path';
import { closeObject, openPinned, pinObject } from '../../host/bpf/command.ts';
import { closeCgroup, openRootCgroup } from '../../host/bpf/place.ts';
import { createLink, linkInfo, programId, updateLink } from '../../host/bpf/program.ts';
import { makePinFolder, removePins } from '../pins.ts';
import { type Generation, HOOK_NAMES, HOOKS, type HookName } from './generation.ts';

/**
 * What attaches the programs to the root cgroup: one pinned link for each, which outlives us. A program is exchanged in its
 * link, so that no connection is made without one.
 */
export class Links {
  readonly #folder: string;
  readonly #fds = new Map<HookName, number>();

  constructor(folder: string) {
    this.#folder = folder;
  }

  /** Everything of `generation` is attached from here on. @throws BpfError, MeshError without a root cgroup */
  lead(generation: Generation): void {
    makePinFolder(this.#folder);
    const cgroup = openRootCgroup();
    try {
      for (const name of HOOK_NAMES) this.#attach(name, generation.program(name), cgroup);
    } finally {
      closeCgroup(cgroup);
    }
  }

  /** Why the programs of `generation` are not all in force; undefined when they are. */
  missing(generation: Generation): string | undefined {
    for (const name of HOOK_NAMES) {
      const pinned = this.#find(name);
      if (pinned === undefined) return `the link ${name} is gone`;
      const { program, target } = linkInfo(pinned);
      if (target === 0n) return `the link ${name} was detached`;
      if (program !== programId(generation.program(name))) return `the link ${name} has a foreign program`;
    }
    return undefined;
  }

  remove(): void {
    this.close();
    removePins(this.#folder);
  }

  close(): void {
    for (const fd of this.#fds.values()) closeObject(fd);
    this.#fds.clear();
  }

  #attach(name: HookName, program: number, cgroup: number): void {
    const present = this.#find(name);
    if (present !== undefined) {
      const info = linkInfo(present);
      if (info.target !== 0n) {
        if (info.program !== programId(program)) updateLink(present, program);
        return;
      }
    }
    // Whatever is in its place is no link of ours, or leads nowhere any more.
    this.#forget(name);
    const link = createLink({ program, target: cgroup, attach: HOOKS[name] });
    this.#fds.set(name, link);
    pinObject(link, this.#pin(name));
  }

  /** The link by its pin: what is not pinned would go with us. */
  #find(name: HookName): number | undefined {
    const pinned = openPinned(this.#pin(name), 'link');
    const known = this.#fds.get(name);
    if (known !== undefined) closeObject(known);
    this.#fds.delete(name);
    if (pinned !== undefined) this.#fds.set(name, pinned);
    return pinned;
  }

  #forget(name: HookName): void {
    const fd = this.#fds.get(name);
    if (fd !== undefined) closeObject(fd);
    this.#fds.delete(name);
    removePins(this.#pin(name));
  }

  #pin(name: HookName): string {
    return join(this.#folder, `link_${name}`);
  }
}
