#include "cli/bench/workload.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "cli/bench/random_numbers.h"
#include "moe/base/limits.h"

namespace conclave {
namespace {

// Streams of random numbers: one for each use, so that a change of one leaves the others as they were.
constexpr uint64_t kArrivals = 1, kInputs = 2, kOutputs = 3, kSharedPrefix = 4;
constexpr uint64_t kPrompts = uint64_t{1} << 32, kBlocks = uint64_t{1} << 48;

constexpr int kTraceBlockTokens = 512;
constexpr size_t kTraceLinesMax = 10'000'000;

class SyntheticWorkload final : public Workload {
 public:
  SyntheticWorkload(const SyntheticOptions& options, const PromptMaker& prompts)
      : options_(options),
        prompts_(prompts),
        arrivals_(options.seed, kArrivals),
        inputs_(options.seed, kInputs),
        outputs_(options.seed, kOutputs) {
    prompts.Append(kSharedPrefix, options.shared_prefix_tokens, prefix_);
  }

  std::optional<WorkItem> Next() override {
    if (options_.requests > 0 && made_ == options_.requests) return std::nullopt;
    WorkItem item;
    if (options_.rate > 0) arrival_seconds_ += arrivals_.Exponential() / options_.rate;
    item.arrival = absl::Seconds(arrival_seconds_);
    item.prompt = prefix_;
    prompts_.Append(kPrompts + static_cast<uint64_t>(made_), options_.input.Draw(inputs_), item.prompt);
    item.output_tokens = options_.output.Draw(outputs_);
    ++made_;
    return item;
  }

 private:
  const SyntheticOptions options_;
  const PromptMaker& prompts_;
  RandomNumbers arrivals_, inputs_, outputs_;
  std::vector<int32_t> prefix_;
  double arrival_seconds_ = 0;
  int64_t made_ = 0;
};

class TraceWorkload final : public Workload {
 public:
  TraceWorkload(std::vector<TraceLine> lines, double speed, const PromptMaker& prompts)
      : lines_(std::move(lines)), speed_(speed), prompts_(prompts) {}

  std::optional<WorkItem> Next() override {
    if (next_ == lines_.size()) return std::nullopt;
    const TraceLine& line = lines_[next_];
    WorkItem item;
    item.arrival = absl::Milliseconds((line.timestamp_ms - lines_.front().timestamp_ms) / speed_);
    item.output_tokens = line.output_length;
    int left = line.input_length;
    for (const uint64_t block : line.hash_ids) {
      const int tokens = std::min(left, kTraceBlockTokens);
      prompts_.Append(kBlocks + block, tokens, item.prompt);
      left -= tokens;
    }
    prompts_.Append(kPrompts + next_, left, item.prompt);
    ++next_;
    return item;
  }

 private:
  const std::vector<TraceLine> lines_;
  const double speed_;
  const PromptMaker& prompts_;
  size_t next_ = 0;
};

bool ReadLength(const nlohmann::json& json, const char* key, int* length) {
  const auto found = json.find(key);
  if (found == json.end() || !found->is_number_integer()) return false;
  const int64_t value = found->get<int64_t>();
  *length = static_cast<int>(std::clamp<int64_t>(value, 0, limits::kContextMax + 1));
  return value >= 1 && value <= limits::kContextMax;
}

}  // namespace

void PromptMaker::Append(uint64_t stream, int count, std::vector<int32_t>& prompt) const {
  RandomNumbers random(seed_, stream);
  for (int i = 0; i < count; ++i) prompt.push_back(ids_[random.Below(ids_.size())]);
}

std::unique_ptr<Workload> NewSyntheticWorkload(const SyntheticOptions& options, const PromptMaker& prompts) {
  return std::make_unique<SyntheticWorkload>(options, prompts);
}

absl::StatusOr<TraceLine> ParseTraceLine(absl::string_view line) {
  const nlohmann::json json = nlohmann::json::parse(line.begin(), line.end(), nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return absl::InvalidArgumentError("is no JSON object");
  TraceLine parsed;
  const auto timestamp = json.find("timestamp");
  if (timestamp == json.end() || !timestamp->is_number() || !(timestamp->get<double>() >= 0)) {
    return absl::InvalidArgumentError("\"timestamp\" should be milliseconds since the start");
  }
  parsed.timestamp_ms = timestamp->get<double>();
  if (!ReadLength(json, "input_length", &parsed.input_length)) {
    return absl::InvalidArgumentError("\"input_length\" should be a number of tokens");
  }
  if (!ReadLength(json, "output_length", &parsed.output_length)) {
    return absl::InvalidArgumentError("\"output_length\" should be a number of tokens");
  }
  const auto blocks = json.find("hash_ids");
  if (blocks == json.end()) return parsed;
  if (!blocks->is_array()) return absl::InvalidArgumentError("\"hash_ids\" should be a list of whole numbers");
  for (const nlohmann::json& block : *blocks) {
    if (!block.is_number_unsigned()) {
      return absl::InvalidArgumentError("\"hash_ids\" should be a list of whole numbers");
    }
    parsed.hash_ids.push_back(block.get<uint64_t>());
  }
  return parsed;
}

absl::StatusOr<std::vector<TraceLine>> ReadTrace(const std::string& path) {
  errno = 0;
  std::ifstream file(path);
  if (!file) return absl::InvalidArgumentError(absl::StrCat(path, ": ", strerror(errno)));
  std::vector<TraceLine> lines;
  size_t number = 0;
  for (std::string text; std::getline(file, text);) {
    ++number;
    if (absl::StripAsciiWhitespace(text).empty()) continue;
    absl::StatusOr<TraceLine> line = ParseTraceLine(text);
    if (line.ok() && !lines.empty() && line->timestamp_ms < lines.back().timestamp_ms) {
      line = absl::InvalidArgumentError("\"timestamp\" is before that of the line above");
    }
    if (line.ok() && lines.size() == kTraceLinesMax) line = absl::InvalidArgumentError("is one line too many");
    if (!line.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": line ", number, ": ", std::string(line.status().message())));
    }
    lines.push_back(*std::move(line));
  }
  if (lines.empty()) return absl::InvalidArgumentError(absl::StrCat(path, ": holds no request"));
  return lines;
}

std::unique_ptr<Workload> NewTraceWorkload(std::vector<TraceLine> lines, double speed, int64_t requests,
                                           const PromptMaker& prompts) {
  if (requests > 0 && static_cast<size_t>(requests) < lines.size()) lines.resize(static_cast<size_t>(requests));
  return std::make_unique<TraceWorkload>(std::move(lines), speed, prompts);
}

}  // namespace conclave
