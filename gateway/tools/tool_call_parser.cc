#include "gateway/tools/tool_call_parser.h"

#include <cstdint>
#include <random>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_format.h"
#include "gateway/tools/json_call_parser.h"
#include "gateway/tools/marked_call_parser.h"

namespace conclave {
namespace {

constexpr absl::string_view kThoughtBegin = "<think>", kThoughtEnd = "</think>";

std::string DrawCallId() {
  thread_local std::random_device device;
  return absl::StrFormat("call_%08x%08x%08x", device(), device(), device());
}

}  // namespace

std::unique_ptr<ToolCallParser> ToolCallParser::Create(const ToolCallReading& reading) {
  if (reading.format->header == CallHeader::kJson) return std::make_unique<JsonCallParser>(reading);
  return std::make_unique<MarkedCallParser>(reading);
}

ToolCallParser::ToolCallParser(const ToolCallReading& reading)
    : format_(*reading.format),
      single_(reading.single),
      place_(reading.begins_in_thought ? Place::kThought : Place::kStart),
      thought_end_({std::string(kThoughtEnd)}) {}

void ToolCallParser::Append(absl::string_view text, v1::GenerateResponse& chunk) {
  for (const char byte : text) AppendByte(byte, chunk);
}

void ToolCallParser::AppendByte(char byte, v1::GenerateResponse& chunk) {
  if (done_) return;
  switch (place_) {
    case Place::kStart: {
      // An answer that thinks begins with the tag, behind white space at most.
      if (start_space_ == start_.size() && absl::ascii_isspace(static_cast<unsigned char>(byte))) ++start_space_;
      start_.push_back(byte);
      const absl::string_view rest = absl::string_view(start_).substr(start_space_);
      if (rest.size() < kThoughtBegin.size() && absl::StartsWith(kThoughtBegin, rest)) return;
      const std::string start = std::exchange(start_, {});
      if (absl::EndsWith(start, kThoughtBegin)) {
        place_ = Place::kThought;
        chunk.mutable_text()->append(start);
        return;
      }
      place_ = Place::kAnswer;
      for (const char earlier : start) Step(earlier, chunk);
      return;
    }
    case Place::kThought:
      if (!thought_end_.Append(absl::string_view(&byte, 1), chunk.mutable_text())) return;
      chunk.mutable_text()->append(kThoughtEnd.data(), kThoughtEnd.size());
      place_ = Place::kAnswer;
      return;
    case Place::kAnswer:
      Step(byte, chunk);
  }
}

void ToolCallParser::Flush(v1::GenerateResponse& chunk) {
  if (done_) return;
  if (place_ == Place::kThought) chunk.mutable_text()->append(thought_end_.Flush());
  for (const char earlier : std::exchange(start_, {})) Step(earlier, chunk);
  if (place_ != Place::kThought) End(chunk);
  // An answer that makes calls has nothing to say with white space.
  if (calls_ == 0) chunk.mutable_text()->append(space_);
  space_.clear();
}

void ToolCallParser::Content(absl::string_view text, v1::GenerateResponse& chunk) {
  for (const char byte : text) {
    space_.push_back(byte);
    if (absl::ascii_isspace(static_cast<unsigned char>(byte))) continue;
    chunk.mutable_text()->append(space_);
    space_.clear();
  }
}

void ToolCallParser::BeginCall(std::string id, absl::string_view name, v1::GenerateResponse& chunk) {
  space_.clear();
  v1::ToolCallDelta* call = chunk.add_tool_calls();
  call->set_index(calls_++);
  call->set_id(id.empty() ? DrawCallId() : std::move(id));
  call->set_name(std::string(name));
  has_arguments_ = false;
}

void ToolCallParser::Arguments(absl::string_view text, v1::GenerateResponse& chunk) {
  if (text.empty()) return;
  const int index = calls_ - 1;
  const int last = chunk.tool_calls_size() - 1;
  const bool goes_on = last >= 0 && chunk.tool_calls(last).index() == index;
  v1::ToolCallDelta* call = goes_on ? chunk.mutable_tool_calls(last) : chunk.add_tool_calls();
  call->set_index(index);
  call->mutable_arguments()->append(text.data(), text.size());
  has_arguments_ = true;
}

void ToolCallParser::EndCall(v1::GenerateResponse& chunk) {
  if (!has_arguments_) Arguments("{}", chunk);
  done_ = single_;
}

}  // namespace conclave
