import { messageOf } from '../core/errors.ts';
import { decodeShort, prefixEnd, type ResponseHeader } from './messages.ts';
import { WireReader, WireWriter } from './wire.ts';

/** A right of a role: one key, or everything under a prefix. */
export interface Permission {
  readonly may: 'read' | 'write' | 'readwrite';
  readonly key?: string;
  readonly prefix?: string;
}

type Request = <Answer extends { readonly header: ResponseHeader }>(
  method: string,
  message: Buffer,
  decode: (data: Buffer) => Answer,
) => Promise<Answer>;

const KINDS = ['read', 'write', 'readwrite'] as const;

/**
 * Users and roles of an etcd (Auth of etcd 3.4, api/etcdserverpb/rpc.proto). Users have no passwords: they are the common
 * names of client certificates. Everything is put as "shall be so": it may be said again, and heals what was half done.
 * @throws MeshError KVS-*
 */
export class AccessControl {
  readonly #request: Request;

  constructor(request: Request) {
    this.#request = request;
  }

  /** The role with these rights and no others. */
  async ensureRole(role: string, permissions: readonly Permission[]): Promise<void> {
    const found = await this.#permissions(role);
    if (found === undefined) await this.#call('RoleAdd', new WireWriter().bytes(1, role), /role name already exists/);
    const wanted = new Map(permissions.map((permission) => [idOf(rangeOf(permission)), permission]));
    for (const have of found ?? []) {
      if (wanted.get(idOf(have))?.may === have.may) wanted.delete(idOf(have));
      else if (!wanted.has(idOf(have)))
        await this.#call('RoleRevokePermission', new WireWriter().bytes(1, role).bytes(2, have.key).bytes(3, have.end));
    }
    for (const permission of wanted.values()) {
      const { key, end } = rangeOf(permission);
      const right = new WireWriter().uint(1, KINDS.indexOf(permission.may)).bytes(2, key).bytes(3, end);
      await this.#call('RoleGrantPermission', new WireWriter().bytes(1, role).message(2, right));
    }
  }

  /** The user with these roles and no others. */
  async ensureUser(user: string, roles: readonly string[]): Promise<void> {
    const found = await this.roles(user);
    const noPassword = new WireWriter().bool(1, true);
    if (found === undefined)
      await this.#call('UserAdd', new WireWriter().bytes(1, user).message(3, noPassword), /user name already exists/);
    for (const role of found ?? []) {
      if (!roles.includes(role)) await this.#call('UserRevokeRole', new WireWriter().bytes(1, user).bytes(2, role));
    }
    for (const role of roles) {
      if (found?.includes(role) !== true)
        await this.#call('UserGrantRole', new WireWriter().bytes(1, user).bytes(2, role));
    }
  }

  /** It must not be there afterwards. */
  removeUser(user: string): Promise<void> {
    return this.#call('UserDelete', new WireWriter().bytes(1, user), /user name not found/);
  }

  removeRole(role: string): Promise<void> {
    return this.#call('RoleDelete', new WireWriter().bytes(1, role), /role name not found/);
  }

  /** The roles of a user; undefined when there is no such user. */
  async roles(user: string): Promise<readonly string[] | undefined> {
    try {
      return (await this.#request('Auth/UserGet', new WireWriter().bytes(1, user).finish(), decodeNames)).names;
    } catch (error) {
      if (/user name not found/.test(messageOf(error))) return undefined;
      throw error;
    }
  }

  async users(): Promise<readonly string[]> {
    return (await this.#request('Auth/UserList', Buffer.alloc(0), decodeNames)).names;
  }

  /** From now on rights are asked for. The user `root` must be there. */
  async enable(): Promise<void> {
    await this.#call('AuthEnable', new WireWriter());
  }

  async #permissions(role: string): Promise<readonly RoleRange[] | undefined> {
    try {
      return (await this.#request('Auth/RoleGet', new WireWriter().bytes(1, role).finish(), decodeRole)).permissions;
    } catch (error) {
      if (/role name not found/.test(messageOf(error))) return undefined;
      throw error;
    }
  }

  async #call(method: string, message: WireWriter, fine?: RegExp): Promise<void> {
    try {
      await this.#request(`Auth/${method}`, message.finish(), onlyHeader);
    } catch (error) {
      if (fine?.test(messageOf(error)) !== true) throw error;
    }
  }
}

interface RoleRange {
  readonly may: Permission['may'];
  readonly key: Buffer;
  readonly end: Buffer;
}

function rangeOf({ key, prefix }: Permission): { key: Buffer; end: Buffer } {
  if (prefix !== undefined) return { key: Buffer.from(prefix), end: prefixEnd(prefix) };
  return { key: Buffer.from(key ?? ''), end: Buffer.alloc(0) };
}

function idOf({ key, end }: { readonly key: Buffer; readonly end: Buffer }): string {
  return `${key.toString('hex')}-${end.toString('hex')}`;
}

/** Header and the strings in field 2: UserList, UserGet. */
function decodeNames(data: Buffer): { header: ResponseHeader; names: string[] } {
  const names: string[] = [];
  const reader = new WireReader(data);
  while (reader.next()) {
    if (reader.field === 2) names.push(reader.string());
    else reader.skip();
  }
  return { header: onlyHeader(data).header, names };
}

function decodeRole(data: Buffer): { header: ResponseHeader; permissions: RoleRange[] } {
  const permissions: RoleRange[] = [];
  const reader = new WireReader(data);
  while (reader.next()) {
    if (reader.field === 2) permissions.push(decodePermission(reader));
    else reader.skip();
  }
  return { header: onlyHeader(data).header, permissions };
}

function decodePermission(reader: WireReader): RoleRange {
  let kind = 0;
  let key: Buffer = Buffer.alloc(0);
  let end: Buffer = Buffer.alloc(0);
  const outer = reader.enter();
  while (reader.next()) {
    if (reader.field === 1) kind = reader.number();
    else if (reader.field === 2) key = Buffer.from(reader.bytes());
    else if (reader.field === 3) end = Buffer.from(reader.bytes());
    else reader.skip();
  }
  reader.leave(outer);
  return { may: KINDS[kind] ?? 'read', key, end };
}

function onlyHeader(data: Buffer): { header: ResponseHeader } {
  const reader = new WireReader(data);
  let header: Buffer | undefined;
  while (reader.next()) {
    if (reader.field === 1) header = reader.bytes();
    else reader.skip();
  }
  return decodeShort(header === undefined ? data : new WireWriter().presentBytes(1, header).finish());
}
