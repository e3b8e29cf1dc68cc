import { WireReader } from '../../kvstore/wire.ts';

const PREFIX = '/etcdserverpb.';

/**
 * What a machine or a remote cluster may ask etcd at all. Rights to keys are etcd's own business; but many etcds (Debian 12
 * has 3.4.23) forget them for some shapes of requests, and any user may compact history or raise an alarm.
 * None of these shapes is of any use to an honest client, so none of them gets to etcd:
 *
 * | shape | what etcd does with it |
 * | --- | --- |
 * | a transaction within a transaction | does it without asking for rights (GHSA-rfx7-8w68-q57q) |
 * | in a transaction: a put with the former value or with a lease | shows or attaches it without asking (CVE-2026-44283) |
 * | a watch from a key to the end of all keys | asks for the right to the first key alone (GHSA-xg4h-6gfc-h4m8) |
 * | the keys of a lease | names them without asking (CVE-2023-32082) |
 * | compaction, alarms, members, maintenance, users | any user may do some of it |
 */
const METHODS: Readonly<Record<string, (message: Buffer) => string | undefined>> = {
  'KV/Range': fine,
  'KV/Put': fine,
  'KV/DeleteRange': fine,
  'KV/Txn': checkTransaction,
  'Watch/Watch': checkWatch,
  'Lease/LeaseGrant': fine,
  'Lease/LeaseRevoke': fine,
  'Lease/LeaseKeepAlive': fine,
};

/** Whether a method is known here; `path` is that of gRPC. */
export function isAllowed(path: string): boolean {
  return path.startsWith(PREFIX) && Object.hasOwn(METHODS, path.slice(PREFIX.length));
}

/** Why a message of an allowed method must not get to etcd; undefined when it may. */
export function checkRequest(path: string, message: Buffer): string | undefined {
  const check = METHODS[path.slice(PREFIX.length)];
  if (check === undefined) return 'this method is not for clients of the mesh';
  try {
    return check(message);
  } catch {
    return 'the message is not well formed';
  }
}

function fine(): undefined {
  return undefined;
}

/** TxnRequest: compare=1, success=2, failure=3. */
function checkTransaction(message: Buffer): string | undefined {
  let problem: string | undefined;
  const reader = new WireReader(message);
  while (reader.next()) {
    if (reader.field === 2 || reader.field === 3) problem ??= checkOperation(reader.bytes());
    else reader.skip();
  }
  return problem;
}

/** RequestOp: range=1, put=2, delete_range=3, txn=4. */
function checkOperation(message: Buffer): string | undefined {
  let problem: string | undefined;
  const reader = new WireReader(message);
  while (reader.next()) {
    if (reader.field === 2) problem ??= checkPut(reader.bytes());
    else {
      if (reader.field !== 1 && reader.field !== 3) problem ??= 'a transaction within a transaction is not taken';
      reader.skip();
    }
  }
  return problem;
}

/** PutRequest: lease=3, prev_kv=4. */
function checkPut(message: Buffer): string | undefined {
  const reader = new WireReader(message);
  let problem: string | undefined;
  while (reader.next()) {
    if (reader.field === 3 || reader.field === 4) problem = 'a put in a transaction has neither lease nor former value';
    reader.skip();
  }
  return problem;
}

/** WatchRequest: create=1. Of repeated fields the last counts, but none may be wrong. */
function checkWatch(message: Buffer): string | undefined {
  let problem: string | undefined;
  const reader = new WireReader(message);
  while (reader.next()) {
    if (reader.field === 1) problem ??= checkWatchCreate(reader.bytes());
    else reader.skip();
  }
  return problem;
}

/** WatchCreateRequest: key=1, range_end=2. */
function checkWatchCreate(message: Buffer): string | undefined {
  let problem: string | undefined;
  const reader = new WireReader(message);
  while (reader.next()) {
    if (reader.field !== 2) {
      reader.skip();
      continue;
    }
    const end = reader.bytes();
    if (end.length === 1 && end[0] === 0) problem = 'a watch up to the end of all keys is not taken';
  }
  return problem;
}
