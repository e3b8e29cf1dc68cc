import { spawn } from 'node:child_process';
import { appendFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { request as sendRequest } from 'node:https';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { AuditRecord, CertificateAnswer, NewTokenRecord, TokenRecord } from '../../src/api/enrolment.ts';
import { MeshError } from '../../src/core/errors.ts';
import { type EnrolmentOptions, enrolmentCarePart, enrolmentPart } from '../../src/hub/enrolment/part.ts';
import type { HubFolder } from '../../src/hub/folder.ts';
import { Hub } from '../../src/hub/hub.ts';
import { type HubPki, openHubPki } from '../../src/hub/hub-pki.ts';
import { initHub, loadHub } from '../../src/hub/init.ts';
import { workloadsPart } from '../../src/hub/workloads/part.ts';
import { openWriterStore, type WriterStore } from '../../src/kvstore/writer-store.ts';
import { silentLog } from '../../src/observe/log.ts';
import { openMetrics } from '../../src/observe/metrics.ts';
import { generateKey, privateKeyPem } from '../../src/pki/keys.ts';
import { makeRequest } from '../../src/pki/request.ts';
import { loopbackAddress } from '../lab/etcd.ts';
import { until } from '../lab/namespace.ts';

let count = 0;

export interface Ran {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

export interface Identity {
  readonly cert: string;
  readonly key: string;
}

/** A hub in this process, on a real etcd, with workloads and enrolment; its clock can be moved. */
export class EnrolmentLab {
  readonly stateDir: string;
  readonly folder: HubFolder;
  readonly address: string;
  readonly port: number;
  readonly pki: HubPki;
  readonly hub: Hub;
  /** Added to the hub's clock. */
  skewMs = 0;
  readonly #stores: WriterStore[] = [];
  readonly #admin: WriterStore;

  private constructor(facts: {
    stateDir: string;
    port: number;
    pki: HubPki;
    address: string;
    options: EnrolmentOptions;
  }) {
    const { stateDir, port, pki, address, options } = facts;
    this.stateDir = stateDir;
    this.folder = pki.folder;
    this.port = port;
    this.address = address;
    this.pki = pki;
    const enrolment = { now: () => Date.now() + this.skewMs, ...options };
    this.hub = new Hub({
      config: loadHub(stateDir).config,
      pki,
      log: silentLog,
      metrics: openMetrics({ version: '0', commit: 'test' }),
      parts: [workloadsPart, enrolmentPart(enrolment), enrolmentCarePart(enrolment)],
      onChange: () => {},
    });
    const etcd = {
      endpoints: [`https://${loadHub(stateDir).config.etcd.client}`],
      ca: pki.folder.internal.cert,
      cert: pki.folder.admin.cert,
      key: pki.folder.admin.key,
    };
    this.#admin = openWriterStore({ etcd: async () => etcd, timing: { retryMinMs: 50, retryMaxMs: 300 } });
    this.#stores.push(this.#admin);
  }

  static async start(options: EnrolmentOptions = {}): Promise<EnrolmentLab> {
    const stateDir = mkdtempSync(join(tmpdir(), 'mesh-enrol-'));
    const address = loopbackAddress();
    const port = 23_000 + 10 * count++;
    await initHub({
      stateDir,
      choices: {
        clusterName: 'vms',
        clusterId: 100,
        pools: ['10.192.0.0/16'],
        names: [address, 'hub.example.com'],
        listenEtcd: `${address}:${port}`,
        listenEnrolment: `${address}:${port + 5}`,
      },
    });
    const { config, folder } = loadHub(stateDir);
    appendFileSync(folder.config, 'metrics: {listen: ""}\n');
    const pki = await openHubPki(folder, config);
    const lab = new EnrolmentLab({ stateDir, port: port + 5, pki, address, options });
    try {
      await lab.hub.start(new AbortController().signal);
      await until('the hub leads', () => lab.hub.leading && lab.part('enrolment-care') !== undefined, 30_000);
      return lab;
    } catch (error) {
      await lab.close();
      throw error;
    }
  }

  get url(): string {
    return `https://${this.address}:${this.port}`;
  }

  /** As the administrator sees the store. */
  get store(): WriterStore {
    return this.#admin;
  }

  part(name: string): Readonly<Record<string, unknown>> | undefined {
    const found = this.hub.status().parts.find((part) => part.name === name && part.state === 'running');
    return found?.facts as Record<string, unknown> | undefined;
  }

  /** Asks the hub as its socket does. @throws MeshError */
  async ask<T>(method: string, path: string, body?: object): Promise<T> {
    const data = body === undefined ? Buffer.alloc(0) : Buffer.from(JSON.stringify(body));
    const answer = await this.hub.routes.answer({ method, target: `/v1/${path}`, body: data });
    if (answer.kind === 'record') return answer.record as T;
    return (answer.kind === 'list' ? [...(answer.records as Iterable<object>)] : undefined) as T;
  }

  async workload(name: string): Promise<void> {
    await this.ask('POST', 'workloads', { name, labels: { app: 'backend' } });
  }

  token(workload: string, more: object = {}): Promise<NewTokenRecord> {
    return this.ask('POST', 'tokens', { workload, by: 'tester', ...more });
  }

  tokens(): Promise<TokenRecord[]> {
    return this.ask('GET', 'tokens');
  }

  async audit(event?: string): Promise<AuditRecord[]> {
    const all = await this.ask<AuditRecord[]>('GET', 'audit');
    return event === undefined ? all : all.filter((record) => record.event === event);
  }

  /** The one that was written last, whatever the clock said. */
  async lastAudit(event: string): Promise<AuditRecord | undefined> {
    const { entries } = await this.#admin.readPrefix('mesh-agent/v1/audit/');
    return [...entries]
      .sort((a, b) => b.createRevision - a.createRevision)
      .map(({ value }) => JSON.parse(value.toString()) as AuditRecord)
      .find((record) => record.event === event);
  }

  /** One request to the hub, as a machine sends it. */
  async post(path: string, body: string | object, identity?: Identity): Promise<{ status: number; record: Answered }> {
    const text = typeof body === 'string' ? body : JSON.stringify(body);
    return new Promise((resolve, reject) => {
      const sent = sendRequest(
        {
          host: this.address,
          port: this.port,
          path,
          method: 'POST',
          ca: this.pki.ca.certificate,
          agent: false,
          headers: { 'content-length': Buffer.byteLength(text) },
          ...identity,
        },
        (response) => {
          const chunks: Buffer[] = [];
          response.on('data', (chunk: Buffer) => chunks.push(chunk));
          response.on('end', () => {
            const answer = Buffer.concat(chunks).toString();
            try {
              resolve({ status: response.statusCode ?? 0, record: JSON.parse(answer) as Answered });
            } catch {
              reject(new Error(`status ${response.statusCode}: ${answer}`));
            }
          });
        },
      );
      sent.on('error', reject);
      sent.end(text);
    });
  }

  /** Joins as a machine of this name would; fails with the hub's refusal. */
  async join(token: string, workload: string): Promise<Identity & { readonly answer: CertificateAnswer }> {
    const key = generateKey();
    const request = makeRequest({ commonName: `machine:${workload}`, key });
    const { status, record } = await this.post('/v1/join', { token, request });
    if (status !== 200) throw new Error(`status ${status}: ${record.code} ${record.message}`);
    return { cert: record.certificate, key: privateKeyPem(key), answer: record };
  }

  /** The store as a machine with this certificate reaches it. */
  machine(identity: Identity): WriterStore {
    const base = join(this.stateDir, `machine-${count++}`);
    writeFileSync(`${base}.crt`, identity.cert);
    writeFileSync(`${base}.key`, identity.key);
    const etcd = {
      endpoints: [`https://${this.address}:${this.port - 5}`],
      ca: this.folder.ca.cert,
      cert: `${base}.crt`,
      key: `${base}.key`,
    };
    const store = openWriterStore({ etcd: async () => etcd, timing: { retryMinMs: 50, retryMaxMs: 300 } });
    this.#stores.push(store);
    return store;
  }

  /** A folder for a machine. */
  place(): string {
    const folder = join(this.stateDir, `place-${count++}`);
    mkdirSync(folder);
    return folder;
  }

  async close(): Promise<void> {
    await Promise.all(this.#stores.map((store) => store.close()));
    await this.hub.stop();
    rmSync(this.stateDir, { recursive: true, force: true });
  }
}

export type Answered = CertificateAnswer & { readonly code: string; readonly message: string };

/** Runs a program to its end, with this on its standard input. */
export function runProgram(command: string, args: readonly string[], input = '', env = process.env): Promise<Ran> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { stdio: ['pipe', 'pipe', 'pipe'], env });
    const timer = setTimeout(() => child.kill('SIGKILL'), 60_000);
    let stdout = '';
    let stderr = '';
    child.stdout.on('data', (data: Buffer) => {
      stdout += data.toString();
    });
    child.stderr.on('data', (data: Buffer) => {
      stderr += data.toString();
    });
    child.stdin.on('error', () => {});
    child.stdin.end(input);
    child.once('error', reject);
    child.once('close', (code) => {
      clearTimeout(timer);
      resolve({ code: code ?? -1, stdout, stderr });
    });
  });
}

/** The code of what a promise rejects with. */
export async function codeOf(work: Promise<unknown>): Promise<string> {
  try {
    await work;
  } catch (error) {
    if (error instanceof MeshError) return error.code;
    throw error;
  }
  return 'none';
}
