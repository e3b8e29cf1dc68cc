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
   * @param present the device that the chain in the kernel is on
   * @returns the text to run, or undefined when all is well
   */
  async plan(
    device: string | undefined,
    present: string | undefined,
  ): Promise<{ text: string; done(): void } | undefined> {
    if (device !== undefined && !DEVICE_NAME.test(device))
      throw new MeshError('DPN-APPLY', `the overlay device cannot be named ${JSON.stringify(device)}`);
    const index = device === undefined ? undefined : await interfaceIndex(device);
    const wanted = index === undefined ? undefined : `${device} ${index}`;
    // What an earlier run left is right: a chain goes with its device, so it is on the one that has this name now.
    if (this.#bound === undefined && wanted !== undefined && present === device) this.#bound = wanted;
    if (wanted === undefined ? present === undefined : present === device && wanted === this.#bound) return undefined;
    const text = arrivalText({ device: wanted === undefined ? undefined : device, present: present !== undefined });
    const done = (): void => {
      this.#bound = wanted;
    };
    return { text, done };
  }
}
