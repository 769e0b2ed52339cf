#include "moe/daemon/flags.h"

#include <cstdio>
#include <cstdlib>
#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "moe/base/check.h"
#include "moe/base/status_macros.h"
#include "moe/daemon/command_line.h"
#include "moe/daemon/config_file.h"
#include "moe/daemon/flag_value.h"
#include "moe/daemon/nearest_name.h"
#include "moe/daemon/version.h"

namespace conclave {
namespace {

std::string EnvironmentName(absl::string_view flag) {
  return absl::StrCat("CONCLAVE_", absl::StrReplaceAll(absl::AsciiStrToUpper(flag), {{"-", "_"}}));
}

// The same status with the place before its message.
absl::Status At(absl::string_view place, const absl::Status& status) {
  return absl::InvalidArgumentError(absl::StrCat(place, ": ", status.message()));
}

// "a,b" as a list; spaces around an item do not belong to it.
std::vector<std::string> SplitList(absl::string_view text) {
  std::vector<std::string> items;
  for (absl::string_view item : absl::StrSplit(text, ',')) {
    item = absl::StripAsciiWhitespace(item);
    if (!item.empty()) items.push_back(std::string(item));
  }
  return items;
}

}  // namespace

struct Flags::Impl {
  struct Flag {
    std::string name;
    FlagTarget target;
    std::string help;
    std::string default_text;
  };

  std::string program;
  std::string description;
  std::vector<Flag> flags;
  std::string config;

  void Add(absl::string_view name, FlagTarget target, absl::string_view help) {
    CONCLAVE_CHECK(Find(name) == nullptr) << "flag --" << name << " is declared twice";
    flags.push_back({std::string(name), target, std::string(help), ShowFlag(target)});
  }

  Flag* Find(absl::string_view name) {
    for (Flag& flag : flags) {
      if (flag.name == name) return &flag;
    }
    return nullptr;
  }

  std::optional<std::string> Variable(const Flag& flag, Environment environment) const {
    const char* text = environment(EnvironmentName(flag.name).c_str());
    if (text == nullptr || *text == '\0') return std::nullopt;
    return std::string(text);
  }

  absl::Status TakeFile(const std::string& path) {
    ASSIGN_OR_RETURN(const std::vector<ConfigEntry> entries, ReadConfigFile(path));
    for (const ConfigEntry& entry : entries) {
      const std::string place = absl::StrCat(path, ":", entry.line);
      Flag* flag = entry.name == "config" ? nullptr : Find(entry.name);
      if (flag == nullptr) return UnknownKey(place, entry.name);
      if (entry.is_list && !IsList(flag->target)) {
        return absl::InvalidArgumentError(absl::StrCat(place, ": ", entry.name, ": expected one value, got a list"));
      }
      const bool split = IsList(flag->target) && !entry.is_list;
      if (absl::Status set = SetFlag(flag->target, split ? SplitList(entry.values[0]) : entry.values); !set.ok()) {
        return At(absl::StrCat(place, ": ", entry.name), set);
      }
    }
    return absl::OkStatus();
  }

  absl::Status UnknownKey(absl::string_view place, absl::string_view key) const {
    std::vector<std::string> known;
    for (const Flag& flag : flags) {
      if (flag.name != "config") known.push_back(flag.name);
    }
    return absl::InvalidArgumentError(absl::StrCat(place, ": unknown key '", key, "'", DidYouMean(key, known)));
  }

  absl::Status TakeEnvironment(Environment environment) {
    for (const Flag& flag : flags) {
      const std::optional<std::string> text = Variable(flag, environment);
      if (!text.has_value()) continue;
      const auto values = IsList(flag.target) ? SplitList(*text) : std::vector<std::string>{*text};
      if (absl::Status set = SetFlag(flag.target, values); !set.ok()) return At(EnvironmentName(flag.name), set);
    }
    return absl::OkStatus();
  }

  absl::Status TakeCommandLine(const CommandLine& line) {
    for (const Flag& flag : flags) {
      const auto found = line.find(flag.name);
      if (found == line.end()) continue;
      if (absl::Status set = SetFlag(flag.target, found->second); !set.ok()) return At("--" + flag.name, set);
    }
    return absl::OkStatus();
  }

  std::vector<CommandLineFlag> CommandLineFlags() const {
    std::vector<CommandLineFlag> result = {{"help", true}, {"version", true}};
    for (const Flag& flag : flags) result.push_back({flag.name, IsSwitch(flag.target)});
    return result;
  }
};

Flags::Flags(absl::string_view program, absl::string_view description) : impl_(std::make_unique<Impl>()) {
  impl_->program = std::string(program);
  impl_->description = std::string(description);
  impl_->Add("config", &impl_->config, "YAML file of `flag: value` lines");
}
Flags::~Flags() = default;

void Flags::Add(absl::string_view name, std::string* value, absl::string_view help) { impl_->Add(name, value, help); }
void Flags::Add(absl::string_view name, int* value, absl::string_view help) { impl_->Add(name, value, help); }
void Flags::Add(absl::string_view name, int64_t* value, absl::string_view help) { impl_->Add(name, value, help); }
void Flags::Add(absl::string_view name, double* value, absl::string_view help) { impl_->Add(name, value, help); }
void Flags::Add(absl::string_view name, bool* value, absl::string_view help) { impl_->Add(name, value, help); }
void Flags::Add(absl::string_view name, std::vector<std::string>* value, absl::string_view help) {
  impl_->Add(name, value, help);
}
void Flags::Add(absl::string_view name, absl::Duration* value, absl::string_view help) {
  impl_->Add(name, value, help);
}
void Flags::AddBytes(absl::string_view name, int64_t* value, absl::string_view help) {
  impl_->Add(name, ByteCount{value}, help);
}

absl::StatusOr<bool> Flags::Parse(int argc, const char* const* argv) {
  return Parse(argc, argv, [](const char* name) -> const char* { return std::getenv(name); });
}

absl::StatusOr<bool> Flags::Parse(int argc, const char* const* argv, Environment environment) {
  // A call for help is answered whatever else is wrong.
  for (int i = 1; i < argc && absl::string_view(argv[i]) != "--"; ++i) {
    const absl::string_view argument = argv[i];
    if (argument != "--help" && argument != "-h" && argument != "--version") continue;
    const std::string text = argument == "--version" ? absl::StrCat(impl_->program, " ", kVersion, "\n") : Help();
    std::fwrite(text.data(), 1, text.size(), stdout);
    return false;
  }
  ASSIGN_OR_RETURN(const CommandLine line, SplitCommandLine(argc, argv, impl_->CommandLineFlags()));
  // The lowest first, so that each next source overrides; errors in overridden values are errors all the same.
  std::string config = impl_->Variable(*impl_->Find("config"), environment).value_or("");
  if (const auto given = line.find("config"); given != line.end()) config = given->second.back();
  if (!config.empty()) RETURN_IF_ERROR(impl_->TakeFile(config));
  RETURN_IF_ERROR(impl_->TakeEnvironment(environment));
  RETURN_IF_ERROR(impl_->TakeCommandLine(line));
  return true;
}

std::string Flags::Help() const {
  std::string flags;
  for (const Impl::Flag& flag : impl_->flags) {
    const absl::string_view placeholder = FlagPlaceholder(flag.target);
    absl::StrAppend(&flags, "  --", flag.name, placeholder.empty() ? "" : " ", placeholder,
                    IsList(flag.target) ? " (repeatable)" : "", "\n      ", flag.help, "\n      ",
                    flag.default_text.empty() ? "" : absl::StrCat("default ", flag.default_text, "; "), "environment ",
                    EnvironmentName(flag.name), "\n");
  }
  return absl::StrCat("Usage: ", impl_->program, " [flags]\n\n", impl_->description, "\n\nFlags:\n", flags,
                      "  --help, -h\n      show this text\n  --version\n      show the version\n\n",
                      "A flag wins over its environment variable, which wins over the file of --config.\n");
}

std::vector<FlagInfo> Flags::List() const {
  std::vector<FlagInfo> list;
  for (const Impl::Flag& flag : impl_->flags) {
    list.push_back({flag.name, EnvironmentName(flag.name), std::string(FlagPlaceholder(flag.target)), flag.default_text,
                    flag.help, IsList(flag.target)});
  }
  return list;
}

int ExitWith(absl::string_view program, const absl::Status& status, int code_on_error) {
  if (status.ok()) return 0;
  // One line, whatever the message holds: scripts and supervisors read lines.
  std::string line =
      absl::StrCat(program, ": ", absl::StrReplaceAll(status.message(), {{"\n", " "}, {"\r", " "}}), "\n");
  std::fwrite(line.data(), 1, line.size(), stderr);
  return code_on_error;
}

}  // namespace conclave
