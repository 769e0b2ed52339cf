#include "gateway/answer_text.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace conclave {

AnswerText::AnswerText(const ServedModel& model, const AnswerStops& stops, absl::Span<const int32_t> shown_ids)
    : model_(model),
      stop_ids_(stops.ids),
      shown_ids_(shown_ids.begin(), shown_ids.end()),
      detokenizer_(model.tokenizer.get()),
      matcher_(stops.texts) {}

std::string AnswerText::TextOfId(int32_t id) {
  if (!std::binary_search(shown_ids_.begin(), shown_ids_.end(), id)) return detokenizer_.Append(id);
  return absl::StrCat(detokenizer_.Flush(), model_.tokenizer->TokenBytes(id));
}

absl::StatusOr<bool> AnswerText::Append(const v1::DecodeResponse& response, v1::GenerateResponse& chunk) {
  if (response.logprobs_size() != 0 && response.logprobs_size() != response.ids_size()) {
    return absl::InternalError(absl::StrCat("the attention service sent ", response.logprobs_size(),
                                            " log probabilities for ", response.ids_size(), " ids"));
  }
  if (response.token_experts_size() != 0 && response.token_experts_size() != response.ids_size()) {
    return absl::InternalError(absl::StrCat("the attention service sent the experts of ", response.token_experts_size(),
                                            " tokens for ", response.ids_size(), " ids"));
  }
  experts_ = experts_ || response.token_experts_size() != 0;
  logprobs_ = logprobs_ || response.logprobs_size() != 0;
  bool stopped = false;
  for (int i = 0; i < response.ids_size() && !stopped; ++i) {
    const int32_t id = response.ids(i);
    if (id < 0 || id >= model_.vocab) {
      return absl::InternalError(absl::StrCat("the attention service sent the id ", id, "; the vocabulary of ",
                                              model_.name, " has ", model_.vocab));
    }
    ++tokens_;
    const bool ends = model_.IsEos(id) || std::binary_search(stop_ids_.begin(), stop_ids_.end(), id);
    const std::string text = ends || id >= model_.tokenizer->vocab() ? "" : TextOfId(id);
    Held& held = held_.emplace_back();
    held.id = id;
    held.begin = decoded_;
    held.end = decoded_ + static_cast<int64_t>(text.size());
    if (response.logprobs_size() != 0) {
      held.logprob = response.logprobs(i);
      SetTokenBytes(model_, held.logprob);
    }
    if (response.token_experts_size() != 0) held.experts = response.token_experts(i);
    stopped = AppendText(text, chunk);
  }
  return stopped;
}

bool AnswerText::AppendText(const std::string& text, v1::GenerateResponse& chunk) {
  decoded_ += static_cast<int64_t>(text.size());
  const size_t before = chunk.text().size();
  const bool stopped = matcher_.Append(text, chunk.mutable_text());
  released_ += static_cast<int64_t>(chunk.text().size() - before);
  Release(stopped, chunk);
  return stopped;
}

void AnswerText::Release(bool stopped, v1::GenerateResponse& chunk) {
  // A token that ends within a stop text but begins before it is a part of the answer.
  while (!held_.empty() && (stopped ? held_.front().begin < released_ : held_.front().end <= released_)) {
    chunk.add_ids(held_.front().id);
    if (logprobs_) *chunk.add_logprobs() = std::move(held_.front().logprob);
    if (experts_) *chunk.add_token_experts() = std::move(held_.front().experts);
    held_.pop_front();
  }
  if (stopped) held_.clear();
}

bool AnswerText::Flush(v1::GenerateResponse& chunk) {
  if (AppendText(detokenizer_.Flush(), chunk)) return true;
  chunk.mutable_text()->append(matcher_.Flush());
  released_ = decoded_;
  Release(/*stopped=*/false, chunk);
  return false;
}

std::string TextOf(const ServedModel& model, absl::Span<const int32_t> ids) {
  Detokenizer detokenizer(model.tokenizer.get());
  std::string text;
  for (const int32_t id : ids) {
    if (!model.IsEos(id) && id < model.tokenizer->vocab()) text += detokenizer.Append(id);
  }
  return text + detokenizer.Flush();
}

void SetTokenBytes(const ServedModel& model, v1::TokenLogprob& logprob) {
  if (logprob.id() >= 0 && logprob.id() < model.tokenizer->vocab()) {
    logprob.set_token(std::string(model.tokenizer->TokenBytes(logprob.id())));
  }
  for (v1::TokenLogprob& other : *logprob.mutable_top()) SetTokenBytes(model, other);
}

}  // namespace conclave
