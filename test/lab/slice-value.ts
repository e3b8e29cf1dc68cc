import { zstdCompressSync } from 'node:zlib';

/** One endpoint of a slice; a condition that is not given is not written. */
export interface SliceEndpoint {
  readonly addresses: readonly string[];
  readonly ready?: boolean;
  readonly serving?: boolean;
  readonly terminating?: boolean;
  readonly hostname?: string;
  readonly node?: string;
}

export interface SliceFields {
  readonly cluster: string;
  readonly clusterId: number;
  readonly namespace: string;
  readonly name: string;
  /** The label of the service; none when undefined. */
  readonly service?: string;
  readonly addressType?: string;
  readonly endpoints?: readonly SliceEndpoint[];
  readonly ports?: readonly { readonly name?: string; readonly protocol?: string; readonly port?: number }[];
}

/**
 * A ClusterEndpointSlice as Cilium 1.20 writes it (kvstore specification 2.7). The protocol buffer is spelled out here once
 * more, on purpose without the product's own reader and writer.
 */
export function sliceMessage(slice: SliceFields): Buffer {
  const labels = [
    ['endpointslice.kubernetes.io/managed-by', 'endpointslice-controller.k8s.io'],
    ...(slice.service === undefined ? [] : [['kubernetes.io/service-name', slice.service]]),
  ];
  return Buffer.concat([
    text(1, slice.cluster),
    number(2, slice.clusterId),
    text(3, slice.namespace),
    text(4, slice.name),
    ...labels.map(([key = '', value = '']) => message(5, text(1, key), text(2, value))),
    message(6, text(1, 'endpoints.kubernetes.io/last-change-trigger-time'), text(2, '2026-11-24T00:00:00Z')),
    text(7, slice.addressType ?? 'IPv4'),
    ...(slice.endpoints ?? []).map(endpoint),
    ...(slice.ports ?? []).map(({ name = '', protocol = 'TCP', port }) =>
      message(9, text(1, name), text(2, protocol), port === undefined ? Buffer.alloc(0) : number(3, port)),
    ),
  ]);
}

export function sliceValue(slice: SliceFields): Buffer {
  return zstdCompressSync(sliceMessage(slice));
}

function endpoint({ addresses, ready, serving, terminating, hostname, node }: SliceEndpoint): Buffer {
  const flags = [ready, serving, terminating].map((flag, index) =>
    flag === undefined ? Buffer.alloc(0) : number(index + 1, Number(flag)),
  );
  return message(
    8,
    ...addresses.map((address) => text(1, address)),
    message(2, ...flags),
    ...(hostname === undefined ? [] : [text(3, hostname)]),
    ...(node === undefined ? [] : [text(6, node)]),
    text(7, 'zone-1'),
    message(8, message(1, text(1, 'zone-1'))),
  );
}

function message(field: number, ...parts: readonly Buffer[]): Buffer {
  const body = Buffer.concat(parts);
  return Buffer.concat([varint((field << 3) | 2), varint(body.length), body]);
}

const text = (field: number, value: string): Buffer => message(field, Buffer.from(value));
const number = (field: number, value: number): Buffer => Buffer.concat([varint(field << 3), varint(value)]);

function varint(value: number): Buffer {
  const bytes: number[] = [];
  let rest = value;
  for (; rest > 127; rest = Math.floor(rest / 128)) bytes.push((rest % 128) | 128);
  return Buffer.from([...bytes, rest]);
}
