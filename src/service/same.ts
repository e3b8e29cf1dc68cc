import type { ServiceFrontend, ServiceTarget } from './result.ts';

/** Whether the kernel has nothing to do. */
export function sameFrontend(a: ServiceFrontend, b: ServiceFrontend): boolean {
  return (
    a.sticky === b.sticky &&
    (a.targets === b.targets ||
      (a.targets.length === b.targets.length &&
        a.targets.every((target, index) => sameTarget(target, b.targets[index]))))
  );
}

function sameTarget(a: ServiceTarget, b: ServiceTarget | undefined): boolean {
  return (
    b !== undefined &&
    a.port === b.port &&
    a.weight === b.weight &&
    a.address.words.length === b.address.words.length &&
    a.address.words.every((word, index) => word === b.address.words[index])
  );
}
