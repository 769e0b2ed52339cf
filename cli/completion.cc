// `conclave completion bash|zsh|fish`: prints a script that completes verbs and flags, made from the flags themselves.
#include <deque>
#include <iostream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "cli/command.h"
#include "moe/daemon/flag_value.h"

namespace conclave {
namespace {

struct VerbFlags {
  std::string verb;
  std::string summary;
  std::deque<CommandFlag> flags;
};

std::vector<VerbFlags> Collect(const std::vector<std::unique_ptr<Command>>& commands) {
  std::vector<VerbFlags> verbs;
  for (const auto& command : commands) {
    CommandFlags flags;
    command->Declare(flags);
    VerbFlags verb{command->name(), command->summary(), {}};
    for (const CommandFlag& flag : flags.flags()) {
      if (!flag.hidden) verb.flags.push_back(flag);
    }
    verbs.push_back(std::move(verb));
  }
  return verbs;
}

std::vector<std::string> FlagNames(const VerbFlags& verb) {
  std::vector<std::string> names;
  for (const CommandFlag& flag : verb.flags) {
    if (!flag.positional) names.push_back(absl::StrCat("--", flag.name));
  }
  names.push_back("--help");
  return names;
}

std::vector<std::string> VerbNames(const std::vector<VerbFlags>& verbs) {
  std::vector<std::string> names;
  for (const VerbFlags& verb : verbs) names.push_back(verb.verb);
  return names;
}

// Words in single quotes survive every shell; a quote inside is closed, escaped and opened again.
std::string Quoted(const std::string& text) {
  return absl::StrCat("'", absl::StrReplaceAll(text, {{"'", "'\\''"}}), "'");
}

bool TakesValue(const CommandFlag& flag) { return !IsSwitch(flag.target); }

void PrintBash(const std::vector<VerbFlags>& verbs) {
  std::cout << "# Load with: source <(conclave completion bash)\n"
               "_conclave() {\n"
               "  local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]}\n"
               "  if [ \"$COMP_CWORD\" -eq 1 ]; then\n"
               "    COMPREPLY=($(compgen -W '"
            << absl::StrJoin(VerbNames(verbs), " ")
            << "' -- \"$word\"))\n"
               "    return\n"
               "  fi\n"
               "  case \"${COMP_WORDS[1]} $before\" in\n";
  for (const VerbFlags& verb : verbs) {
    for (const CommandFlag& flag : verb.flags) {
      if (flag.choices.empty()) continue;
      // A positional choice follows the verb itself.
      const std::string before = flag.positional ? verb.verb : absl::StrCat("--", flag.name);
      std::string pattern = absl::StrCat("'", verb.verb, " ", before, "'");
      if (flag.short_name != '\0')
        absl::StrAppend(&pattern, "|'", verb.verb, " -", std::string(1, flag.short_name), "'");
      std::cout << "    " << pattern << ") COMPREPLY=($(compgen -W '" << absl::StrJoin(flag.choices, " ")
                << "' -- \"$word\")); return ;;\n";
    }
  }
  std::cout << "  esac\n"
               "  case \"${COMP_WORDS[1]}\" in\n";
  for (const VerbFlags& verb : verbs) {
    std::cout << "    " << verb.verb << ") COMPREPLY=($(compgen -W '" << absl::StrJoin(FlagNames(verb), " ")
              << "' -- \"$word\")) ;;\n";
  }
  std::cout << "  esac\n"
               "}\n"
               "complete -o default -F _conclave conclave\n";
}

// One entry of zsh's _arguments: '--flag[help]:value:(choices)'.
std::string ZshEntry(const CommandFlag& flag) {
  const std::string help = absl::StrReplaceAll(flag.help, {{"[", "("}, {"]", ")"}, {":", " "}});
  const std::string values = flag.choices.empty() ? "_files" : absl::StrCat("(", absl::StrJoin(flag.choices, " "), ")");
  if (flag.positional) return Quoted(absl::StrCat("1:", flag.value_name, ":", values));
  std::string entry = absl::StrCat("--", flag.name, "[", help, "]");
  if (TakesValue(flag)) absl::StrAppend(&entry, ":", flag.value_name, ":", values);
  return Quoted(entry);
}

void PrintZsh(const std::vector<VerbFlags>& verbs) {
  std::cout << "#compdef conclave\n"
               "# Load with: source <(conclave completion zsh)\n"
               "_conclave() {\n"
               "  if (( CURRENT == 2 )); then\n"
               "    local -a verbs=(";
  for (const VerbFlags& verb : verbs) {
    std::cout << " " << Quoted(absl::StrCat(verb.verb, ":", absl::StrReplaceAll(verb.summary, {{":", " "}})));
  }
  std::cout << " )\n"
               "    _describe verb verbs\n"
               "    return\n"
               "  fi\n"
               "  local verb=$words[2]\n"
               "  shift words; (( CURRENT-- ))\n"
               "  case $verb in\n";
  for (const VerbFlags& verb : verbs) {
    std::vector<std::string> entries;
    for (const CommandFlag& flag : verb.flags) entries.push_back(ZshEntry(flag));
    entries.push_back("'--help[explain this verb]'");
    std::cout << "    " << verb.verb << ") _arguments " << absl::StrJoin(entries, " ") << " ;;\n";
  }
  std::cout << "  esac\n"
               "}\n"
               "compdef _conclave conclave\n";
}

void PrintFish(const std::vector<VerbFlags>& verbs) {
  std::cout << "# Load with: conclave completion fish | source\n";
  for (const VerbFlags& verb : verbs) {
    std::cout << "complete -c conclave -n __fish_use_subcommand -f -a " << verb.verb << " -d " << Quoted(verb.summary)
              << "\n";
    for (const CommandFlag& flag : verb.flags) {
      std::cout << "complete -c conclave -n '__fish_seen_subcommand_from " << verb.verb << "'";
      if (!flag.positional) std::cout << " -l " << flag.name;
      if (flag.short_name != '\0') std::cout << " -s " << flag.short_name;
      if (TakesValue(flag) && !flag.positional) std::cout << " -r";
      if (!flag.choices.empty()) std::cout << " -f -a " << Quoted(absl::StrJoin(flag.choices, " "));
      std::cout << " -d " << Quoted(flag.help) << "\n";
    }
  }
}

class CompletionCommand final : public Command {
 public:
  explicit CompletionCommand(const std::vector<std::unique_ptr<Command>>* commands) : commands_(commands) {}

  std::string name() const override { return "completion"; }
  std::string summary() const override { return "print a script that completes verbs and flags in your shell"; }

  void Declare(CommandFlags& flags) override {
    CommandFlag& shell = flags.Add("shell", &shell_, "SHELL", "bash, zsh or fish");
    shell.positional = true;
    shell.choices = {"bash", "zsh", "fish"};
  }

  absl::Status Run(const CommandContext&) override {
    if (shell_.empty()) return UsageError("name the shell: conclave completion bash|zsh|fish");
    const std::string shell = shell_;  // Collect declares our own flags again, too
    const std::vector<VerbFlags> verbs = Collect(*commands_);
    if (shell == "bash") PrintBash(verbs);
    if (shell == "zsh") PrintZsh(verbs);
    if (shell == "fish") PrintFish(verbs);
    return absl::OkStatus();
  }

 private:
  const std::vector<std::unique_ptr<Command>>* commands_;
  std::string shell_;
};

}  // namespace

std::unique_ptr<Command> NewCompletionCommand(const std::vector<std::unique_ptr<Command>>* commands) {
  return std::make_unique<CompletionCommand>(commands);
}

}  // namespace conclave
