/** What the local socket of the hub answers, as parts add it. */
export interface HubApi {
  /**
   * Answers `METHOD /v1/<path>`. A segment `:name` of the path stands for any one segment. Of two paths the one that was
   * added first wins. Adding the same path again replaces the handler.
   */
  route(method: HubMethod, path: string, handler: HubHandler): void;
}

export type HubMethod = 'GET' | 'POST' | 'PUT' | 'DELETE';

export interface HubRequest {
  /** The segments that `:name` stood for, decoded. */
  readonly params: Readonly<Record<string, string>>;
  readonly query: URLSearchParams;
  /** The body as JSON, at most 4 MiB; undefined without one. Its shape is the handler's to check. */
  readonly body: unknown;
}

/** One record, a list of records of any length, or nothing. What is thrown as MeshError is answered as an error. */
export type HubAnswer = { readonly record: object } | { readonly list: Iterable<object> } | undefined;

export type HubHandler = (request: HubRequest) => HubAnswer | Promise<HubAnswer>;
