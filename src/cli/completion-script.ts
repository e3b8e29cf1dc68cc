import type { Command } from 'commander';

export const SHELLS = ['bash', 'zsh', 'fish'] as const;
export type Shell = (typeof SHELLS)[number];

/** The words that may follow one command: names of commands, and options. */
interface Place {
  /** `` for the program itself, `identity`, `identity list`. */
  readonly path: string;
  readonly words: readonly (readonly [word: string, meaning: string])[];
  /** The values of an option that takes one of a few words. */
  readonly choices: readonly (readonly [option: string, words: readonly string[]])[];
}

/** A script that knows the whole command tree; it asks nobody when it runs. */
export function completionScript(program: Command, shell: Shell): string {
  const places = placesOf(program, '');
  if (shell === 'fish') return fishScript(places);
  return shell === 'bash' ? bashScript(places) : zshScript(places);
}

function placesOf(command: Command, path: string): Place[] {
  const root = rootOf(command);
  const options = [...new Set([...command.options, ...root.options])].filter((option) => option.long !== '--version');
  const commands = command.commands.map((each) => [each.name(), each.summary()] as const);
  const arguments_ = command.registeredArguments.flatMap(({ argChoices, description }) =>
    (argChoices ?? []).map((word) => [word, description] as const),
  );
  const place: Place = {
    path,
    words: [
      ...commands,
      ...arguments_,
      ...options.flatMap(({ long, description }) => (long == null ? [] : [[long, description] as const])),
    ],
    choices: options.flatMap((option) =>
      option.argChoices === undefined ? [] : [[option.long ?? '', option.argChoices] as const],
    ),
  };
  const below = command.commands.flatMap((each) => placesOf(each, `${path} ${each.name()}`.trim()));
  return [place, ...below];
}

function rootOf(command: Command): Command {
  return command.parent === null ? command : rootOf(command.parent);
}

function bashScript(places: readonly Place[]): string {
  const cases = places.map(({ path, words }) => `    '${path}') words='${words.map(([word]) => word).join(' ')}' ;;`);
  return `# bash completion for mesh-agent
_mesh_agent() {
  local cur=\${COMP_WORDS[COMP_CWORD]} prev=\${COMP_WORDS[COMP_CWORD - 1]} where= word words=
  case $prev in
${choiceCases(places, (values) => `COMPREPLY=($(compgen -W '${values.join(' ')}' -- "$cur")); return`)}
    --config | --socket | --state-dir) COMPREPLY=($(compgen -f -- "$cur")); return ;;
  esac
  for word in "\${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    case " ${commandNames(places).join(' ')} " in
      *" $word "*) where=\${where:+$where }$word ;;
    esac
  done
  case $where in
${cases.join('\n')}
  esac
  if [ -n "$words" ]; then COMPREPLY=($(compgen -W "$words" -- "$cur")); else COMPREPLY=($(compgen -f -- "$cur")); fi
}
complete -o bashdefault -F _mesh_agent mesh-agent
`;
}

/** The names of all commands, which may stand anywhere between options. */
function commandNames(places: readonly Place[]): string[] {
  return [...new Set(places.flatMap(({ path }) => path.split(' ')).filter((name) => name !== ''))];
}

function choiceCases(places: readonly Place[], offer: (values: readonly string[]) => string): string {
  const all = new Map(places.flatMap(({ choices }) => choices));
  return [...all]
    .map(([option, values]) => `    ${option === '--output' ? '-o | --output' : option}) ${offer(values)} ;;`)
    .join('\n');
}

function zshScript(places: readonly Place[]): string {
  const item = (word: string, meaning: string): string =>
    `'${`${word.replaceAll(':', '\\:')}:${meaning}`.replaceAll("'", "'\\''")}'`;
  const cases = places.map(({ path, words }) => {
    const items = (option: boolean): string =>
      words
        .filter(([word]) => word.startsWith('-') === option)
        .map(([word, meaning]) => item(word, meaning))
        .join(' ');
    return `    '${path}') names=(${items(false)}); options=(${items(true)}) ;;`;
  });
  return `#compdef mesh-agent
_mesh_agent() {
  local where= word
  local -a names options
  case $words[CURRENT-1] in
${choiceCases(places, (values) => `compadd -- ${values.join(' ')}; return`)}
    --config | --socket | --state-dir) _files; return ;;
  esac
  for word in $words[2,CURRENT-1]; do
    case " ${commandNames(places).join(' ')} " in
      *" $word "*) where=\${where:+$where }$word ;;
    esac
  done
  case $where in
${cases.join('\n')}
  esac
  if (( $#names )) && [[ $PREFIX != -* ]]; then _describe command names
  elif (( $#options )) && [[ $PREFIX == -* ]]; then _describe -o option options
  else _files; fi
}
if [[ $funcstack[1] == _mesh-agent ]]; then _mesh_agent "$@"; else compdef _mesh_agent mesh-agent; fi
`;
}

function fishScript(places: readonly Place[]): string {
  const quote = (text: string): string => `'${text.replaceAll('\\', '\\\\').replaceAll("'", "\\'")}'`;
  const lines = places.flatMap(({ path, words, choices }) =>
    words.map(([word, meaning]) => {
      const here = `complete -c mesh-agent -n ${quote(`__mesh_agent_at ${quote(path)}`)}`;
      if (!word.startsWith('--')) return `${here} -f -a ${quote(word)} -d ${quote(meaning)}`;
      const values = choices.find(([option]) => option === word)?.[1];
      const short = word === '--output' ? ' -s o' : '';
      const taken = values === undefined ? '' : ` -x -a ${quote(values.join(' '))}`;
      return `${here} -l ${word.slice(2)}${short}${taken} -d ${quote(meaning)}`;
    }),
  );
  return `# fish completion for mesh-agent
function __mesh_agent_at
    set -l path
    for word in (commandline -opc)[2..-1]
        contains -- $word ${commandNames(places).join(' ')}; and set -a path $word
    end
    test "$path" = "$argv[1]"
end
${lines.join('\n')}
`;
}
