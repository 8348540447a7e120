"""Scripts that complete words of the command line in a shell, made from the parser itself."""

from __future__ import annotations

from resilience_core.cli._parser import SHELLS, Parser, parser

_BASH = """\
# resilience: completion for bash. eval "$(resilience completion bash)"
_resilience() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}" words=""
    case "${{COMP_WORDS[1]}}" in
{cases}
    *) words="{commands}" ;;
    esac
    [ "$COMP_CWORD" -eq 1 ] && words="{commands} --help --version"
    COMPREPLY=($(compgen -W "$words" -- "$word"))
    [ "${{#COMPREPLY[@]}}" -eq 0 ] && COMPREPLY=($(compgen -f -- "$word"))
    return 0
}}
complete -F _resilience resilience
"""
_ZSH = """\
#compdef resilience
# resilience: completion for zsh. Put it into a file _resilience in $fpath, or: eval "$(resilience completion zsh)"
_resilience() {{
    local -a told
    if (( CURRENT == 2 )); then
        told=({commands} --help --version)
    else
        case "$words[2]" in
{cases}
        esac
    fi
    compadd -- $told || _files
}}
(( $+functions[compdef] )) && compdef _resilience resilience
"""


def script(shell: str) -> str:
    """The script for one of the shells."""
    whole = parser()
    words = {name: _words(command) for name, command in whole.commands.items()}
    if shell == "fish":
        return (
            "\n".join(["# resilience: completion for fish. resilience completion fish | source", *_fish(whole)]) + "\n"
        )
    form, case = (_BASH, '    {}) words="{}" ;;') if shell == "bash" else (_ZSH, "        {}) told=({}) ;;")
    cases = "\n".join(case.format(name, " ".join(told)) for name, told in words.items())
    return form.format(commands=" ".join(words), cases=cases)


def _words(command: Parser) -> list[str]:
    further = list(command.commands) or (list(SHELLS) if command.prog.endswith(" completion") else [])
    flags = {flag: None for each in (command, *command.commands.values()) for flag in each.flags()}
    return [*further, *flags]


def _fish(whole: Parser) -> list[str]:
    lines = ["complete -c resilience -f"]
    for name, command in whole.commands.items():
        told = (command.description or "").replace("'", "\\'")
        lines.append(f"complete -c resilience -n __fish_use_subcommand -a {name} -d '{told}'")
        for word in _words(command):
            kind = (
                f"-l {word[2:]}"
                if word.startswith("--")
                else f"-s {word[1:]}"
                if word.startswith("-")
                else f"-a {word}"
            )
            lines.append(f"complete -c resilience -n '__fish_seen_subcommand_from {name}' {kind}")
    lines.append("complete -c resilience -n '__fish_seen_subcommand_from config' -F")
    return lines
