#include "cli/command.h"

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"

namespace conclave {
namespace {

constexpr absl::string_view kUsagePayload = "conclave/usage-error";

}  // namespace

CommandFlag& CommandFlags::Add(absl::string_view name, FlagTarget target, absl::string_view value_name,
                               absl::string_view help) {
  CommandFlag& flag = flags_.emplace_back();
  flag.name = std::string(name);
  flag.target = target;
  flag.value_name = std::string(value_name);
  flag.help = std::string(help);
  return flag;
}

void CommandFlags::AddOutput(std::string* output) {
  CommandFlag& flag = Add("output", output, "FORMAT", "text for people, json for programs");
  flag.short_name = 'o';
  flag.choices = {"text", "json"};
}

absl::Status UsageError(absl::string_view message) {
  absl::Status status = absl::InvalidArgumentError(message);
  status.SetPayload(kUsagePayload, absl::Cord());
  return status;
}

bool IsUsageError(const absl::Status& status) { return status.GetPayload(kUsagePayload).has_value(); }

std::string OneLine(absl::string_view message) {
  return absl::StrReplaceAll(absl::StripAsciiWhitespace(message), {{"\r\n", " "}, {"\n", " "}, {"\r", " "}});
}

std::string EnvironmentName(absl::string_view flag) {
  return absl::StrCat("CONCLAVE_", absl::AsciiStrToUpper(absl::StrReplaceAll(flag, {{"-", "_"}})));
}

}  // namespace conclave
