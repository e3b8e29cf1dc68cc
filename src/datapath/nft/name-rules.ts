import { NAME_LOG } from '../name-log.ts';

/** Far more than a machine asks; a flood costs the listener no more than this. */
const RATE = 'limit rate 2000/second burst 1000 packets';
const tell = (prefix: string): string => `${RATE} log prefix "${prefix}" group ${NAME_LOG.group}`;

/**
 * The part of the table that is there only while policies name DNS names. Behind the judging hooks: what was denied is not told
 * of. Queries are seen as they leave, after all translation, answers as they come, before any, so that both have the same ends.
 */
export const NAME_HOOKS = `
  chain tell_query {
    ${tell(NAME_LOG.query)}
  }
  chain tell_answer {
    ${tell(NAME_LOG.answer)}
  }
  chain names_out {
    type filter hook postrouting priority 312; policy accept;
    meta l4proto != 17 accept
    udp dport != 53 accept
    ct direction original oifname @external goto tell_query
    ct direction original oifname @overlay goto tell_query
  }
  chain names_in {
    type filter hook prerouting priority -159; policy accept;
    meta l4proto != 17 accept
    udp sport != 53 accept
    ct direction reply iifname @external goto tell_answer
    ct direction reply iifname @overlay goto tell_answer
  }
`;
