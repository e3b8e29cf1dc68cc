// node scripts/bpf-object.mjs OBJECT: what the agent needs of a compiled eBPF object, as JSON on standard output: the maps
// with their shapes, and of each program its instructions and where in them which map goes. Programs may consist of nothing
// else: no functions that are called, no global data (see native/bpf/maps.h). Format: ELF-64, little endian; relocations as
// in the kernel's Documentation/bpf/llvm_reloc.rst.
import { readFileSync } from 'node:fs';

const INSTRUCTION = 8;
const R_BPF_64_64 = 1;
const SHT = { symbols: 2, relocations: 9 };
const EXECUTABLE = 4;

class Elf {
  constructor(bytes) {
    this.bytes = bytes;
    if (bytes.readUInt32BE(0) !== 0x7f454c46 || bytes[4] !== 2 || bytes[5] !== 1) throw new Error('not such an ELF file');
    const [at, size, count] = [Number(bytes.readBigUInt64LE(0x28)), bytes.readUInt16LE(0x3a), bytes.readUInt16LE(0x3c)];
    this.sections = Array.from({ length: count }, (_, index) => this.#section(at + index * size));
    const names = this.sections[bytes.readUInt16LE(0x3e)];
    for (const section of this.sections) section.name = this.#text(names, section.nameAt);
  }

  #section(at) {
    const { bytes } = this;
    const wide = (offset) => Number(bytes.readBigUInt64LE(at + offset));
    const [offset, size] = [wide(24), wide(32)];
    return {
      nameAt: bytes.readUInt32LE(at),
      type: bytes.readUInt32LE(at + 4),
      flags: wide(8),
      link: bytes.readUInt32LE(at + 40),
      info: bytes.readUInt32LE(at + 44),
      data: bytes.subarray(offset, offset + size),
    };
  }

  #text(section, at) {
    return section.data.toString('latin1', at, section.data.indexOf(0, at));
  }

  /** Name, section and offset of every symbol, in order. */
  symbols() {
    const table = this.sections.find(({ type }) => type === SHT.symbols);
    const names = this.sections[table.link];
    return Array.from({ length: table.data.length / 24 }, (_, index) => {
      const at = index * 24;
      return {
        name: this.#text(names, table.data.readUInt32LE(at)),
        type: table.data[at + 4] & 15,
        section: table.data.readUInt16LE(at + 6),
        value: Number(table.data.readBigUInt64LE(at + 8)),
      };
    });
  }
}

function mapsOf(elf, symbols) {
  const index = elf.sections.findIndex(({ name }) => name === 'maps');
  const { data } = elf.sections[index];
  const number = (at, field) => data.readUInt32LE(at + field * 4);
  return symbols
    .filter(({ section, type }) => section === index && type === 1)
    .map(({ name, value: at }) => ({
      name,
      type: number(at, 0),
      keyBytes: number(at, 1),
      valueBytes: number(at, 2),
      entries: number(at, 3),
      flags: number(at, 4),
    }));
}

function relocationsOf(elf, symbols, index, maps) {
  const found = [];
  for (const { type, info, data, name } of elf.sections) {
    if (type !== SHT.relocations || info !== index) continue;
    for (let at = 0; at < data.length; at += 16) {
      const kind = Number(data.readBigUInt64LE(at + 8) & 0xffffffffn);
      const symbol = symbols[Number(data.readBigUInt64LE(at + 8) >> 32n)];
      if (kind !== R_BPF_64_64 || !maps.some((map) => map.name === symbol.name))
        throw new Error(`${name}: only maps can be referred to, not ${symbol.name || 'other sections'}`);
      found.push([Number(data.readBigUInt64LE(at)) / INSTRUCTION, symbol.name]);
    }
  }
  return found;
}

function programsOf(elf, symbols, maps) {
  return elf.sections.flatMap((section, index) => {
    if ((section.flags & EXECUTABLE) === 0 || section.data.length === 0) return [];
    const functions = symbols.filter((symbol) => symbol.section === index && symbol.type === 2);
    if (functions.length !== 1 || functions[0].value !== 0)
      throw new Error(`${section.name}: one function each, all that it calls inlined`);
    return [
      {
        name: functions[0].name,
        section: section.name,
        instructions: section.data.toString('base64'),
        maps: relocationsOf(elf, symbols, index, maps),
      },
    ];
  });
}

const elf = new Elf(readFileSync(process.argv[2]));
const symbols = elf.symbols();
const maps = mapsOf(elf, symbols);
process.stdout.write(`${JSON.stringify({ maps, programs: programsOf(elf, symbols, maps) })}\n`);
