import { firstPacket } from './judge-rules.ts';
import { FIRST_BELIEVED, LABEL } from './names.ts';

/**
 * The part of the table that is there only with an overlay, so that a machine without one pays for no hook of it.
 *
 * The identity in the outer header becomes the packet's mark as late as it can, when the outer packet is handed to the
 * socket of the overlay (foreign rules and routing by mark never see it), survives decapsulation and is taken off when the
 * inner packet enters. What did not come from a known node over an external device must not reach that socket: anyone on
 * the machine could speak for any address.
 */
export const OVERLAY_CHAINS = `
  chain from_overlay {
    ct label ${LABEL.passed} meta mark set 0 accept
    ct label ${LABEL.withdrawn} goto withdrawn_in
    ct state related meta mark set 0 meta l4proto { 1, 58 } accept
    ct direction reply meta mark set 0 goto answer_in
    meta l4proto . th dport @failsafe_in meta mark set 0 goto passed_in
    meta mark < ${FIRST_BELIEVED} meta mark set 0 goto new_in
    meta mark > 0xffffff meta mark set 0 goto new_in
    jump class_of_in
    meta mark set 0
    ct label set ${LABEL.overlay}
    goto passed_in
  }
  chain outer_identity {
    iifname @external ip saddr @nodes4 meta mark set @th,96,32 >> 8 accept
    iifname @external ip6 saddr @nodes6 meta mark set @th,96,32 >> 8 accept
    goto stranger_in
  }
`;

export const OVERLAY_HOOKS = `
  chain overlay_untracked {
    type filter hook prerouting priority -300; policy accept;
    iifname @external udp dport @tunnel ip saddr @nodes4 notrack
    iifname @external udp dport @tunnel ip6 saddr @nodes6 notrack
  }
  chain overlay_untracked_out {
    type filter hook output priority -300; policy accept;
    udp dport @tunnel ip daddr @nodes4 notrack
    udp dport @tunnel ip6 daddr @nodes6 notrack
  }
  chain overlay_enter {
    type filter hook prerouting priority -161; policy accept;
    iifname @overlay goto from_overlay
  }
  chain overlay_arrive {
    type filter hook input priority 350; policy accept;
    udp dport @tunnel goto outer_identity
  }
  chain overlay_leave {
    type filter hook postrouting priority 311; policy accept;
    ct state established ct label ${LABEL.passed} accept
    ct label ${LABEL.passedOut} accept
    oifname != @overlay accept
    ${firstPacket('out')}
    goto leaving
  }
`;
