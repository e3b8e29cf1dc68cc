/**
 * Whether a service that runs on machines has this machine as a backend: the same namespace, and every label of the selector.
 * `labels` are all that its hub registered it with.
 */
export function selectsMachine(
  service: { readonly namespace: string; readonly selector: ReadonlyMap<string, string> },
  machine: { readonly namespace: string | undefined; readonly labels: ReadonlyMap<string, string> },
): boolean {
  if (service.namespace !== machine.namespace || service.selector.size === 0) return false;
  for (const [key, value] of service.selector) if (machine.labels.get(key) !== value) return false;
  return true;
}
