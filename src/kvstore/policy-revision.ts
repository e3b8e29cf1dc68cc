/**
 * Names a set of policy documents of the store, for those who hand them out and those who apply them: the highest of their
 * modification revisions, and how many there are. Every change of a document raises the one, every removal alone lowers the
 * other.
 */
export function policyRevision(modRevisions: Iterable<number>): string {
  let highest = 0;
  let count = 0;
  for (const revision of modRevisions) {
    highest = Math.max(highest, revision);
    count++;
  }
  return `${highest}-${count}`;
}
