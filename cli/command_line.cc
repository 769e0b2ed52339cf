#include "cli/command_line.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <iostream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "moe/base/status_macros.h"
#include "moe/daemon/flag_value.h"
#include "moe/daemon/nearest_name.h"
#include "moe/daemon/version.h"

namespace conclave {
namespace {

// The number in a flag's target; 0 for what is no number, whose flags have no range.
struct AsNumber {
  double operator()(int* value) const { return *value; }
  double operator()(int64_t* value) const { return static_cast<double>(*value); }
  double operator()(double* value) const { return *value; }
  template <typename Other>
  double operator()(const Other&) const {
    return 0;
  }
};

std::string RangeText(const CommandFlag& flag) {
  if (std::isinf(flag.maximum)) return absl::StrCat("at least ", flag.minimum);
  return absl::StrCat("from ", flag.minimum, " to ", flag.maximum);
}

absl::Status AssignFlag(const CommandFlag& flag, const std::string& text) {
  const std::string shown = flag.positional ? flag.value_name : absl::StrCat("--", flag.name);
  if (absl::Status status = SetFlag(flag.target, {text}); !status.ok()) {
    return UsageError(absl::StrCat(shown, ": ", std::string(status.message())));
  }
  if (!flag.choices.empty() && std::count(flag.choices.begin(), flag.choices.end(), text) == 0) {
    return UsageError(absl::StrCat(shown, " takes one of ", absl::StrJoin(flag.choices, ", "), ", not '", text, "'"));
  }
  const double number = std::visit(AsNumber{}, flag.target);
  if (!(number >= flag.minimum && number <= flag.maximum)) {  // NaN is in no range
    return UsageError(absl::StrCat(shown, " takes a number ", RangeText(flag), ", not ", text));
  }
  return absl::OkStatus();
}

// Adds `flag` to CLI11's `verb` as text; conversion is ours, so that every refusal says what the flag takes.
CLI::Option* AddOption(CLI::App* verb, const CommandFlag& flag) {
  if (flag.positional) return verb->add_option(flag.name, flag.help)->type_name(flag.value_name);
  std::string names = absl::StrCat("--", flag.name);
  if (flag.short_name != '\0') names = absl::StrCat("-", std::string(1, flag.short_name), ",", names);
  CLI::Option* option = nullptr;
  if (IsSwitch(flag.target)) {
    option = verb->add_flag(names, flag.help);
  } else {
    option = verb->add_option(names, flag.help);
    const std::string type = flag.choices.empty() ? flag.value_name : absl::StrJoin(flag.choices, "|");
    option->type_name(type)->default_str(ShowFlag(flag.target));
  }
  option->envname(EnvironmentName(flag.name))->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  if (flag.hidden) option->group("");
  return option;
}

absl::Status RefuseUnknown(const std::vector<std::string>& unknown, const CommandFlags& flags) {
  if (unknown.empty()) return absl::OkStatus();
  const std::string word = unknown[0].substr(0, unknown[0].find('='));
  if (word.empty() || word[0] != '-') {
    return UsageError(absl::StrCat("unexpected argument '", unknown[0], "'; values with spaces need quotes"));
  }
  std::vector<std::string> names;
  for (const CommandFlag& flag : flags.flags()) {
    if (!flag.positional && !flag.hidden) names.push_back(absl::StrCat("--", flag.name));
  }
  return UsageError(absl::StrCat("unknown flag '", word, "'", DidYouMean(word, names)));
}

absl::StatusOr<Command*> FindCommand(const std::string& name, const std::vector<std::unique_ptr<Command>>& commands) {
  std::vector<std::string> names;
  for (const auto& command : commands) {
    if (command->name() == name) return command.get();
    names.push_back(command->name());
  }
  return UsageError(absl::StrCat("unknown verb '", name, "'; there are ", absl::StrJoin(names, ", ")));
}

const CommandFlag* FindFlag(const std::string& argument, const CommandFlags& flags) {
  for (const CommandFlag& flag : flags.flags()) {
    if (flag.positional) continue;
    if (argument == absl::StrCat("--", flag.name)) return &flag;
    if (flag.short_name != '\0' && argument == absl::StrCat("-", std::string(1, flag.short_name))) return &flag;
  }
  return nullptr;
}

// Splits --flag=value of flags that take values into two arguments: CLI11 2.1 takes "--flag=" for a flag without its
// value, but an empty value is one.
std::vector<std::string> SplitValues(const std::vector<std::string>& arguments, const CommandFlags& flags) {
  std::vector<std::string> split;
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string& argument = arguments[i];
    if (const CommandFlag* flag = FindFlag(argument, flags); flag != nullptr && !IsSwitch(flag->target)) {
      split.push_back(argument);
      if (i + 1 < arguments.size()) split.push_back(arguments[++i]);
      continue;
    }
    const size_t equals = argument.find('=');
    const CommandFlag* flag = equals == std::string::npos ? nullptr : FindFlag(argument.substr(0, equals), flags);
    if (flag != nullptr && !IsSwitch(flag->target)) {
      split.push_back(argument.substr(0, equals));
      split.push_back(argument.substr(equals + 1));
    } else {
      split.push_back(argument);
    }
  }
  return split;
}

// CLI11 reports by exception; none leaves this function. True: parsed. False: help or version was printed.
absl::StatusOr<bool> RunParser(CLI::App& app, std::vector<std::string> arguments) {
  std::reverse(arguments.begin(), arguments.end());  // CLI11 takes them last first
  try {
    app.parse(std::move(arguments));
    return true;
  } catch (const CLI::CallForVersion&) {
    std::cout << "conclave " << kVersion << "\n";
    return false;
  } catch (const CLI::Success& help) {
    app.exit(help);
    return false;
  } catch (const CLI::Error& error) {
    return UsageError(OneLine(error.what()));
  }
}

}  // namespace

absl::StatusOr<Command*> ParseCommandLine(const std::vector<std::string>& arguments,
                                          const std::vector<std::unique_ptr<Command>>& commands) {
  CLI::App app("Serves mixture-of-experts language models with attention and experts in different processes.",
               "conclave");
  app.set_version_flag("--version", kVersion);
  app.require_subcommand(0, 1);  // a directory may be called like a verb
  app.footer("'conclave VERB --help' explains a verb.");
  Command* command = nullptr;
  if (!arguments.empty() && (arguments[0].empty() || arguments[0][0] != '-')) {
    ASSIGN_OR_RETURN(command, FindCommand(arguments[0], commands));
  } else if (arguments.empty()) {
    return UsageError("say what to do, such as 'conclave up --model DIR'; 'conclave --help' lists the verbs");
  }

  CommandFlags flags;
  std::vector<CLI::Option*> options;
  CLI::App* selected = nullptr;
  for (const auto& candidate : commands) {
    CLI::App* verb = app.add_subcommand(candidate->name(), candidate->summary());
    if (candidate.get() != command) continue;
    // Only the chosen verb's flags are declared: an environment variable of another one cannot matter.
    selected = verb;
    verb->allow_extras();
    command->Declare(flags);
    for (const CommandFlag& flag : flags.flags()) options.push_back(AddOption(verb, flag));
  }
  ASSIGN_OR_RETURN(const bool parsed, RunParser(app, SplitValues(arguments, flags)));
  if (!parsed) return nullptr;
  if (selected == nullptr) return UsageError(absl::StrCat("'", arguments[0], "' is no verb; see 'conclave --help'"));
  RETURN_IF_ERROR(RefuseUnknown(selected->remaining(), flags));
  for (size_t i = 0; i < options.size(); ++i) {
    const std::vector<std::string>& results = options[i]->results();
    if (!results.empty()) RETURN_IF_ERROR(AssignFlag(flags.flags()[i], results.back()));
  }
  return command;
}

}  // namespace conclave
