#include "gateway/tools/marked_call_parser.h"

#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace conclave {
namespace {

constexpr size_t kHeaderBytesMax = 256;

// The markers by their place in every matcher of this file.
enum Marker { kCallBegin, kCallEnd, kSectionBegin, kSectionEnd, kHeaderEnd };

std::vector<std::string> MarkersOf(const ToolCallFormat& format) {
  return {std::string(format.call_begin), std::string(format.call_end), std::string(format.section_begin),
          std::string(format.section_end), std::string(format.header_end)};
}

// "functions.get_weather:0" → "get_weather".
absl::string_view NameOfId(absl::string_view id) {
  absl::ConsumePrefix(&id, "functions.");
  const size_t colon = id.rfind(':');
  if (colon == absl::string_view::npos) return id;
  for (const char c : id.substr(colon + 1)) {
    if (!absl::ascii_isdigit(static_cast<unsigned char>(c))) return id;
  }
  return id.substr(0, colon);
}

}  // namespace

MarkedCallParser::MarkedCallParser(const ToolCallReading& reading)
    : ToolCallParser(reading), markers_(MarkersOf(format_)), matcher_(markers_) {}

void MarkedCallParser::Enter(State state) {
  state_ = state;
  matcher_ = StopMatcher(markers_);
  header_.clear();
  trimmed_.clear();
  has_arguments_ = false;
}

void MarkedCallParser::Step(char byte, v1::GenerateResponse& chunk) {
  std::string certain;
  const bool found = matcher_.Append(absl::string_view(&byte, 1), &certain);
  const int marker = matcher_.found();
  switch (state_) {
    case State::kText:
      Content(certain, chunk);
      if (!found) return;
      if (marker == kHeaderEnd || marker == kCallEnd) {
        // Markers of a call that was not one.
        Content(markers_[static_cast<size_t>(marker)], chunk);
        return Enter(State::kText);
      }
      return Enter(marker == kCallBegin ? State::kHeader : State::kText);
    case State::kHeader:
      return StepHeader(found, certain, chunk);
    case State::kArguments:
      AppendArguments(certain, chunk);
      if (!found) return;
      if (marker == kHeaderEnd || marker == kSectionBegin) {
        // Within arguments these mean nothing.
        AppendArguments(markers_[static_cast<size_t>(marker)], chunk);
        matcher_ = StopMatcher(markers_);
        return;
      }
      EndCall(chunk);
      return Enter(marker == kCallBegin ? State::kHeader : State::kText);
  }
}

void MarkedCallParser::StepHeader(bool found, absl::string_view certain, v1::GenerateResponse& chunk) {
  absl::StrAppend(&header_, certain);
  const int marker = matcher_.found();
  if (!found) {
    if (header_.size() <= kHeaderBytesMax) return;
    // The matcher stays: a marker may have begun.
    Content(absl::StrCat(format_.call_begin, std::exchange(header_, {})), chunk);
    state_ = State::kText;
    return;
  }
  if (marker == kHeaderEnd && TakeHeader(chunk)) return Enter(State::kArguments);
  if (marker == kCallBegin || marker == kSectionEnd) {
    HeaderIsText("", chunk);
    return Enter(marker == kCallBegin ? State::kHeader : State::kText);
  }
  HeaderIsText(markers_[static_cast<size_t>(marker)], chunk);
}

bool MarkedCallParser::TakeHeader(v1::GenerateResponse& chunk) {
  absl::string_view header = absl::StripAsciiWhitespace(header_);
  std::string id;
  if (format_.header == CallHeader::kTypeAndName) {
    if (!absl::ConsumePrefix(&header, absl::StrCat("function", format_.separator))) return false;
    header = absl::StripAsciiWhitespace(header);
  }
  if (format_.header == CallHeader::kId) {
    id = std::string(header);
    header = NameOfId(header);
  }
  if (!IsFunctionName(header)) return false;
  // Models miscount; each result must find its call.
  for (int index = calls(); !id.empty() && !ids_.insert(id).second; ++index) {
    id = absl::StrCat("functions.", header, ":", index);
  }
  BeginCall(std::move(id), header, chunk);
  return true;
}

void MarkedCallParser::HeaderIsText(absl::string_view rest, v1::GenerateResponse& chunk) {
  Content(absl::StrCat(format_.call_begin, header_, rest), chunk);
  Enter(State::kText);
}

void MarkedCallParser::AppendArguments(absl::string_view text, v1::GenerateResponse& chunk) {
  const bool fenced = absl::StartsWith(format_.header_end, "```");
  for (const char byte : text) {
    if (absl::ascii_isspace(static_cast<unsigned char>(byte)) || (fenced && byte == '`')) {
      if (has_arguments_) trimmed_.push_back(byte);
      continue;
    }
    Arguments(trimmed_, chunk);
    trimmed_.clear();
    Arguments(absl::string_view(&byte, 1), chunk);
    has_arguments_ = true;
  }
}

void MarkedCallParser::End(v1::GenerateResponse& chunk) {
  const std::string rest = matcher_.Flush();
  if (state_ == State::kText) return Content(rest, chunk);
  if (state_ == State::kHeader) return HeaderIsText(rest, chunk);
  AppendArguments(rest, chunk);
}

}  // namespace conclave
