import { MeshError } from '../../core/errors.ts';
import { interfaceIndex } from './interface-index.ts';
import { arrivalText } from './ruleset.ts';

/** What nft takes in quotes as it is, and what the kernel takes as the name of a device. */
const DEVICE_NAME = /^[A-Za-z0-9_.@+-]{1,15}$/;

/** Keeps the arrival chain on the overlay's device, also when the device comes later or is made anew. */
export class Arrival {
  /** Device and index that the chain was last made for. */
  #bound: string | undefined;

  /**
   * @param present whether the kernel has the chain
   * @returns the text to run, or undefined when all is well
   */
  async plan(device: string | undefined, present: boolean): Promise<{ text: string; done(): void } | undefined> {
    if (device !== undefined && !DEVICE_NAME.test(device))
      throw new MeshError('DPN-APPLY', `the overlay device cannot be named ${JSON.stringify(device)}`);
    const index = device === undefined ? undefined : await interfaceIndex(device);
    const wanted = index === undefined ? undefined : `${device} ${index}`;
    // Whether a chain found at start is on this device is only known by making it again.
    if (present === (wanted !== undefined) && (wanted === undefined || wanted === this.#bound)) return undefined;
    const text = arrivalText({ device: wanted === undefined ? undefined : device, present });
    const done = (): void => {
      this.#bound = wanted;
    };
    return { text, done };
  }
}
