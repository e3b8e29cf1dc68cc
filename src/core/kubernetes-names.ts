/** Names as Kubernetes takes them: RFC 1123 and 1035, and the syntax of labels. */
const DNS_LABEL = /^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$/;
const DNS_NAME = /^(?=.{1,253}$)[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*$/;
const SERVICE_NAME = /^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$/;
const QUALIFIED = /^[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$/;

/** A namespace, the name of a port: 63 characters at most. */
export function isDnsLabel(text: string): boolean {
  return DNS_LABEL.test(text);
}

/** Labels joined by dots, 253 characters at most. */
export function isDnsName(text: string): boolean {
  return DNS_NAME.test(text);
}

/** The name of a service begins with a letter. */
export function isServiceName(text: string): boolean {
  return SERVICE_NAME.test(text);
}

/** `name`, or `prefix/name` with a DNS name as prefix. */
export function isLabelKey(key: string): boolean {
  const slash = key.indexOf('/');
  return slash < 0 ? QUALIFIED.test(key) : DNS_NAME.test(key.slice(0, slash)) && QUALIFIED.test(key.slice(slash + 1));
}

export function isLabelValue(value: string): boolean {
  return value === '' || QUALIFIED.test(value);
}
