#include "moe/tokenizer/bpe_tokenizer.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "moe/base/status_macros.h"
#include "moe/tokenizer/byte_level.h"
#include "moe/tokenizer/json_file.h"
#include "moe/tokenizer/tiktoken_chunks.h"
#include "moe/tokenizer/utf8.h"

namespace conclave {
namespace {

constexpr char kReplacement[] = "\xEF\xBF\xBD";

// Whether UTF-8 text may contain the byte. DeepSeek-V2's vocabulary lacks those that it may not.
bool OccursInUtf8(int byte) { return byte != 0xC0 && byte != 0xC1 && byte < 0xF5; }

}  // namespace

struct BpeTokenizer::Pass {
  std::vector<int32_t> ids;   // the result so far
  std::vector<int32_t> word;  // the tokens of the word at hand
  BpeMerger::Scratch merge;
  PreTokenizer::Scratch split;
};

absl::StatusOr<std::unique_ptr<BpeTokenizer>> BpeTokenizer::Create(BpeModel model, const TokenizerConfig& config,
                                                                   const std::string& file,
                                                                   const std::string& config_file) {
  auto tokenizer = std::unique_ptr<BpeTokenizer>(new BpeTokenizer(std::move(model)));
  RETURN_IF_ERROR(tokenizer->FindByteTokens(file));
  RETURN_IF_ERROR(tokenizer->AddTokens(config, file, config_file));
  ASSIGN_OR_RETURN(tokenizer->bos_id_, tokenizer->FindNamed(config.bos_token, "bos_token", config_file));
  ASSIGN_OR_RETURN(tokenizer->eos_id_, tokenizer->FindNamed(config.eos_token, "eos_token", config_file));
  tokenizer->add_bos_ = config.add_bos_token.value_or(tokenizer->model_.adds_bos_by_default);
  if (tokenizer->add_bos_ && !tokenizer->bos_id_.has_value()) {
    if (config.add_bos_token.has_value()) return FileError(config_file, "add_bos_token is true without a bos_token");
    tokenizer->add_bos_ = false;
  }
  return tokenizer;
}

absl::Status BpeTokenizer::FindByteTokens(const std::string& file) {
  byte_ids_.fill(-1);
  for (int32_t id = 0; id < vocab(); ++id) {
    const std::string& bytes = model_.token_bytes[id];
    if (!model_.is_word[id]) continue;
    if (bytes.size() == 1) byte_ids_[static_cast<uint8_t>(bytes[0])] = id;
  }
  for (int byte = 0; byte < 256; ++byte) {
    if (byte_ids_[byte] < 0 && OccursInUtf8(byte)) {
      return FileError(file, absl::StrFormat("the vocabulary has no token for the byte 0x%02X", byte));
    }
  }
  return absl::OkStatus();
}

absl::Status BpeTokenizer::AddToken(const AddedToken& token, const std::string& file) {
  const auto [known, is_new] = added_ids_.try_emplace(token.content, token.id);
  if (!is_new) {
    return FileError(file, absl::StrCat("the added token \"", token.content, "\" has both id ", known->second,
                                        " and id ", token.id));
  }
  if (token.id >= vocab()) {
    model_.token_bytes.resize(token.id + 1);
    model_.is_word.resize(token.id + 1, false);
  }
  std::string& bytes = model_.token_bytes[token.id];
  // The vocabulary may hold the token too; then it spells it in its byte alphabet.
  if (!bytes.empty() && bytes != token.content && ToByteLevel(bytes) != token.content) {
    return FileError(
        file, absl::StrCat("id ", token.id, " is both \"", bytes, "\" and the added token \"", token.content, "\""));
  }
  model_.is_word[token.id] = false;
  bytes = token.content;
  is_special_.resize(vocab(), false);
  is_special_[token.id] = token.special;
  (token.normalized ? second_pass_ : first_pass_).Add(token);
  return absl::OkStatus();
}

absl::Status BpeTokenizer::AddTokens(const TokenizerConfig& config, const std::string& file,
                                     const std::string& config_file) {
  is_special_.resize(vocab(), false);
  for (const AddedToken& token : model_.added_tokens) RETURN_IF_ERROR(AddToken(token, file));
  // transformers adds those that only the configuration knows.
  for (const AddedToken& token : config.added_tokens) {
    const auto known = added_ids_.find(token.content);
    if (known != added_ids_.end() && known->second == token.id) continue;
    RETURN_IF_ERROR(AddToken(token, absl::StrCat(config_file, ": added_tokens_decoder")));
  }
  if (model_.ignore_merges) {  // Only now do the token bytes stay where they are.
    for (int32_t id = 0; id < vocab(); ++id) {
      if (model_.is_word[id]) words_.emplace(model_.token_bytes[id], id);
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::optional<int32_t>> BpeTokenizer::FindNamed(const std::optional<std::string>& content,
                                                               const char* name, const std::string& config_file) const {
  if (!content.has_value()) return std::optional<int32_t>();
  const auto added = added_ids_.find(*content);
  if (added != added_ids_.end()) return std::optional<int32_t>(added->second);
  for (int32_t id = 0; id < vocab(); ++id) {
    if (!content->empty() && model_.token_bytes[id] == *content) return std::optional<int32_t>(id);
  }
  return FileError(config_file, absl::StrCat(name, " \"", *content, "\" is not a token of the model"));
}

void BpeTokenizer::EncodeWord(absl::string_view word, Pass* pass) const {
  if (model_.ignore_merges) {
    const auto token = words_.find(word);
    if (token != words_.end()) {
      pass->ids.push_back(token->second);
      return;
    }
  }
  pass->word.clear();
  for (char c : word) pass->word.push_back(byte_ids_[static_cast<uint8_t>(c)]);
  model_.merger.Run(&pass->word, &pass->merge);
  pass->ids.insert(pass->ids.end(), pass->word.begin(), pass->word.end());
}

// The pre-tokeniser sees stretches of UTF-8; what is none goes in byte by byte.
void BpeTokenizer::EncodeText(absl::string_view text, Pass* pass) const {
  const auto word = [&](absl::string_view w) { EncodeWord(w, pass); };
  size_t begin = 0, at = 0;
  while (at < text.size()) {
    const Utf8Step step = NextUtf8(text.substr(at));
    if (step.form == Utf8Form::kCharacter) {
      at += step.bytes;
      continue;
    }
    model_.pre_tokenizer.ForEachWord(text.substr(begin, at - begin), &pass->split, word);
    const int32_t id = byte_ids_[static_cast<uint8_t>(text[at])];
    if (id >= 0) {
      pass->ids.push_back(id);
    } else {
      EncodeWord(kReplacement, pass);
    }
    begin = ++at;
  }
  model_.pre_tokenizer.ForEachWord(text.substr(begin), &pass->split, word);
}

std::vector<int32_t> BpeTokenizer::EncodeSpans(absl::Span<const TextSpan> spans) const {
  std::string joined;
  std::vector<TextRange> control_ranges;
  size_t length = 0;
  for (const TextSpan& span : spans) {
    if (span.special == SpecialText::kAsTokens && !span.text.empty()) {
      if (control_ranges.empty() || control_ranges.back().end != length) control_ranges.push_back({length, length});
      control_ranges.back().end = length + span.text.size();
    }
    length += span.text.size();
    if (spans.size() > 1) joined.append(span.text.data(), span.text.size());
  }
  if (spans.empty()) return {};
  const absl::string_view text = spans.size() > 1 ? absl::string_view(joined) : spans[0].text;
  Pass pass;
  const auto add_id = [&](int32_t id) { pass.ids.push_back(id); };
  const auto add_text = [&](size_t from, size_t to) { EncodeText(text.substr(from, to - from), &pass); };
  const auto second_pass = [&](size_t begin, size_t end) {
    second_pass_.Split(text, begin, end, control_ranges, add_text, add_id);
  };
  size_t begin = 0;
  for (size_t end : model_.cut_long_text ? TiktokenChunkEnds(text) : std::vector<size_t>{text.size()}) {
    first_pass_.Split(text, begin, end, control_ranges, second_pass, add_id);
    begin = end;
  }
  return std::move(pass.ids);
}

std::vector<int32_t> BpeTokenizer::Encode(absl::string_view text, SpecialText special) const {
  const TextSpan span{text, special};
  return EncodeSpans({&span, 1});
}

absl::StatusOr<std::string> BpeTokenizer::Decode(absl::Span<const int32_t> ids, bool skip_special) const {
  std::string bytes;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= vocab()) {
      return absl::InvalidArgumentError(
          absl::StrCat("ids[", i, "] is ", ids[i], ", outside the vocabulary of ", vocab(), " tokens"));
    }
    if (!skip_special || !IsSpecial(ids[i])) bytes += model_.token_bytes[ids[i]];
  }
  std::string text;
  text.reserve(bytes.size());
  AppendLossyUtf8(bytes, /*final=*/true, &text);
  return text;
}

}  // namespace conclave
