/**
 * How the rules tell of DNS (`log group`, nfnetlink_log): queries that leave the machine and answers that come back to
 * them. One listener at a time has the group; without one the kernel drops what is told.
 */
export const NAME_LOG = { group: 21_387, query: 'mesh-dns-query', answer: 'mesh-dns-answer' } as const;
