#include "moe/daemon/command_line.h"

#include <cstddef>

#include "CLI/CLI.hpp"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "moe/base/status_macros.h"
#include "moe/daemon/nearest_name.h"

namespace conclave {
namespace {

// CLI11 takes whatever follows a flag as its value. `--model --shard a` is a forgotten value, not a model "--shard".
absl::Status CheckForgottenValues(int argc, const char* const* argv, const std::vector<CommandLineFlag>& flags) {
  const auto find = [&flags](absl::string_view argument) -> const CommandLineFlag* {
    for (const CommandLineFlag& flag : flags) {
      if (argument == absl::StrCat("--", flag.name)) return &flag;
    }
    return nullptr;
  };
  for (int i = 1; i < argc; ++i) {
    const absl::string_view argument = argv[i];
    if (argument == "--") break;
    const CommandLineFlag* flag = find(argument);
    if (flag == nullptr || flag->is_switch) continue;
    if (i + 1 == argc || find(argv[i + 1]) != nullptr) {
      return absl::InvalidArgumentError(absl::StrCat("flag --", flag->name, " needs a value"));
    }
    ++i;
  }
  return absl::OkStatus();
}

absl::Status Unknown(absl::string_view argument, const std::vector<CommandLineFlag>& flags) {
  if (!absl::StartsWith(argument, "-") || argument.size() < 2) {
    return absl::InvalidArgumentError(absl::StrCat("unexpected argument '", argument, "'"));
  }
  std::vector<std::string> names;
  for (const CommandLineFlag& flag : flags) names.push_back(flag.name);
  const absl::string_view name = argument.substr(
      argument.find_first_not_of('-') == absl::string_view::npos ? argument.size() : argument.find_first_not_of('-'));
  return absl::InvalidArgumentError(
      absl::StrCat("unknown flag ", argument, DidYouMean(name.substr(0, name.find('=')), names, "--")));
}

// The arguments as CLI11 takes them: it would read `--name=` as a flag whose value comes next.
std::vector<std::string> SplitEmptyValues(int argc, const char* const* argv) {
  std::vector<std::string> arguments;
  bool flags_ended = false;
  for (int i = 1; i < argc; ++i) {
    const absl::string_view argument = argv[i];
    flags_ended = flags_ended || argument == "--";
    if (!flags_ended && absl::StartsWith(argument, "--") && argument.find('=') == argument.size() - 1) {
      arguments.push_back(std::string(argument.substr(0, argument.size() - 1)));
      arguments.push_back("");
    } else {
      arguments.push_back(std::string(argument));
    }
  }
  // CLI11 wants them from the last to the first.
  return std::vector<std::string>(arguments.rbegin(), arguments.rend());
}

}  // namespace

absl::StatusOr<CommandLine> SplitCommandLine(int argc, const char* const* argv,
                                             const std::vector<CommandLineFlag>& flags) {
  RETURN_IF_ERROR(CheckForgottenValues(argc, argv, flags));
  CommandLine line;
  try {
    CLI::App app;
    app.set_help_flag("");
    app.allow_extras();
    std::map<std::string, CLI::Option*> options;
    for (const CommandLineFlag& flag : flags) {
      const std::string names = absl::StrCat("--", flag.name);
      CLI::Option* option = flag.is_switch ? app.add_flag(names) : app.add_option(names)->type_size(1)->expected(1);
      options[flag.name] = option->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
    }
    app.parse(SplitEmptyValues(argc, argv));
    const std::vector<std::string> extras = app.remaining();
    if (!extras.empty()) return Unknown(extras[0], flags);
    for (const auto& [name, option] : options) {
      if (option->count() > 0) line[name] = option->results();
    }
  } catch (const CLI::Error& error) {
    return absl::InvalidArgumentError(error.what());
  }
  return line;
}

}  // namespace conclave
