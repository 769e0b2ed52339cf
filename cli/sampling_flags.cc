#include "cli/sampling_flags.h"

#include <google/protobuf/text_format.h>

#include <limits>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "moe/base/status_macros.h"

namespace conclave {
namespace {

// One setting: its flag, and the numbers that it takes. Fields are found by name in the messages of inference.proto.
struct Setting {
  const char* flag;
  const char* value_name;
  const char* help;
  double minimum, maximum;
};

// Of whole numbers, which their type bounds.
constexpr double kUnbounded = std::numeric_limits<double>::infinity();
constexpr Setting kSettings[] = {
    {"temperature", "X", "0: always the most likely token", 0, 100},
    {"top-p", "P", "sample from the likeliest tokens of this total probability", 1e-6, 1},
    {"top-k", "K", "sample from this many of the likeliest tokens; 0: all", 0, kUnbounded},
    {"min-p", "P", "sample from tokens of at least this share of the likeliest one's probability", 0, 1},
    {"repetition-penalty", "X", "above 1: tokens that were there already become less likely", 1e-3, 100},
    {"presence-penalty", "X", "taken from the logits of tokens that the answer holds", -2, 2},
    {"frequency-penalty", "X", "the same for each time that the answer holds them", -2, 2},
    {"seed", "N", "makes sampling repeatable; drawn where absent", 0, kUnbounded},
    {"max-tokens", "N", "end an answer after so many tokens", 1, kUnbounded},
};

const Setting* FindSetting(absl::string_view flag) {
  for (const Setting& setting : kSettings) {
    if (flag == setting.flag) return &setting;
  }
  return nullptr;
}

std::string FieldName(absl::string_view flag) {
  std::string name(flag);
  for (char& c : name) c = c == '-' ? '_' : c;
  return name;
}

// The message that holds the field called `name`, and the field.
std::pair<google::protobuf::Message*, const google::protobuf::FieldDescriptor*> Find(v1::GenerateRequest& request,
                                                                                     const std::string& name) {
  const auto* field = v1::SamplingOptions::descriptor()->FindFieldByName(name);
  if (field != nullptr) return {request.mutable_sampling(), field};
  return {&request, v1::GenerateRequest::descriptor()->FindFieldByName(name)};
}

absl::Status WrongValue(const Setting& setting, const std::string& text, bool whole) {
  const std::string range = whole ? absl::StrCat("whole number of at least ", setting.minimum)
                                  : absl::StrCat("number from ", setting.minimum, " to ", setting.maximum);
  return absl::InvalidArgumentError(absl::StrCat(setting.flag, " takes a ", range, ", not '", text, "'"));
}

}  // namespace

void SamplingFlags::Declare(CommandFlags& flags) {
  for (const Setting& setting : kSettings) {
    flags.Add(setting.flag, &texts_[setting.flag], setting.value_name, setting.help);
  }
}

absl::Status SamplingFlags::Take() {
  for (const auto& [flag, text] : texts_) {
    if (text.empty()) continue;
    if (const absl::Status status = Set(flag, text); !status.ok()) {
      return UsageError(absl::StrCat("--", std::string(status.message())));
    }
  }
  return absl::OkStatus();
}

absl::Status SamplingFlags::Set(absl::string_view name, const std::string& text) {
  using Field = google::protobuf::FieldDescriptor;
  const Setting* setting = FindSetting(name);
  if (setting == nullptr) {
    std::vector<std::string> names;
    for (const Setting& known : kSettings) names.push_back(known.flag);
    return absl::InvalidArgumentError(
        absl::StrCat("there is no setting '", name, "'; there are ", absl::StrJoin(names, ", ")));
  }
  const auto [message, field] = Find(settings_, FieldName(name));
  const google::protobuf::Reflection& reflection = *message->GetReflection();
  if (text.empty() || text == "default") {
    reflection.ClearField(message, field);
    return absl::OkStatus();
  }
  if (field->cpp_type() == Field::CPPTYPE_FLOAT) {
    double number = 0;
    if (!absl::SimpleAtod(text, &number) || !(number >= setting->minimum && number <= setting->maximum)) {
      return WrongValue(*setting, text, false);
    }
    reflection.SetFloat(message, field, static_cast<float>(number));
  } else if (field->cpp_type() == Field::CPPTYPE_UINT64) {
    uint64_t number = 0;
    if (!absl::SimpleAtoi(text, &number)) return WrongValue(*setting, text, true);
    reflection.SetUInt64(message, field, number);
  } else {
    int32_t number = 0;
    if (!absl::SimpleAtoi(text, &number) || number < setting->minimum) return WrongValue(*setting, text, true);
    reflection.SetInt32(message, field, number);
  }
  return absl::OkStatus();
}

std::vector<std::string> SamplingFlags::Describe() const {
  std::vector<std::string> lines;
  v1::GenerateRequest settings = settings_;
  for (const Setting& setting : kSettings) {
    const auto [message, field] = Find(settings, FieldName(setting.flag));
    if (!message->GetReflection()->HasField(*message, field)) continue;
    std::string value;
    google::protobuf::TextFormat::PrintFieldValueToString(*message, field, -1, &value);
    lines.push_back(absl::StrCat(setting.flag, " ", value));
  }
  return lines;
}

void SamplingFlags::ApplyTo(v1::GenerateRequest& request) const { request.MergeFrom(settings_); }

}  // namespace conclave
