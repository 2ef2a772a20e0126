"""Completion of files by what they are called: click's scripts for bash, zsh and fish, with one more kind of answer."""

from __future__ import annotations

from click.shell_completion import BashComplete, CompletionItem, FishComplete, ZshComplete, add_completion_class

ENDING = "ending"
"""Kind of an answer that stands for the files with certain endings, and for folders, which lead to more of them."""
IN_BASH = r"""        elif [[ $type == 'ending' ]]; then
            local word=${COMP_WORDS[COMP_CWORD]} ending
            word=${word//\\/}
            word=${word#[\"\']}
            [[ $word == '=' ]] && word=''
            compopt -o filenames 2>/dev/null
            mapfile -t -O ${#COMPREPLY[@]} COMPREPLY < <(compgen -d -- "$word"; IFS='|'; for ending in $value; do compgen -f -X "!*.$ending" -- "$word"; done)
"""
IN_ZSH = """        elif [[ "$type" == "ending" ]]; then
            _path_files -g "*.(${key})(-.)"
            _path_files -/
"""
IN_FISH = """        else if test $metadata[1] = "ending";
            __fish_complete_path (commandline -ct) | string match -r '^[^\\t]*(?:/|\\.(?:'$metadata[2]'))(?:\\t.*)?$';
"""


def ending_in(incomplete: str, endings: tuple[str, ...]) -> CompletionItem:
    """Return the answer that stands for files with these endings; of folders alone where there is none."""
    if not endings:
        return CompletionItem(incomplete, type="dir")
    return CompletionItem(incomplete, type=ENDING, endings="|".join(endings))


def _with(template: str, line: str, branch: str) -> str:
    """Return a script with a branch in front of the line of another; as it is where a later click has no such line."""
    before, found, behind = template.partition(line)
    return before + branch.replace("%", "%%") + line + behind if found else template


def _told(item: CompletionItem, script: str) -> CompletionItem:
    """Return an answer as a script takes it: one that lacks the branch completes all files."""
    if item.type != ENDING:
        return item
    return CompletionItem(item.endings, type=ENDING) if ENDING in script else CompletionItem(item.value, type="file")


class _Bash(BashComplete):
    source_template = _with(BashComplete.source_template, "        elif [[ $type == 'plain' ]]; then", IN_BASH)

    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the words before the last and the last; bash makes three of ``--option=value``."""
        args, incomplete = super().get_completion_args()
        return (args[:-1] if args[-1:] == ["="] else args), incomplete

    def format_completion(self, item: CompletionItem) -> str:
        return super().format_completion(_told(item, self.source_template))


class _Zsh(ZshComplete):
    source_template = _with(ZshComplete.source_template, '        elif [[ "$type" == "file" ]]; then', IN_ZSH)

    def format_completion(self, item: CompletionItem) -> str:
        return super().format_completion(_told(item, self.source_template))


class _Fish(FishComplete):
    source_template = _with(FishComplete.source_template, '        else if test $metadata[1] = "plain";', IN_FISH)

    def format_completion(self, item: CompletionItem) -> str:
        return super().format_completion(_told(item, self.source_template))


SHELLS = {found.name: add_completion_class(found) for found in (_Bash, _Zsh, _Fish)}
"""Name of a shell -> what completes there."""
