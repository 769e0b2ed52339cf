// The tokenizer behind tokenizer.json and tiktoken.model: added tokens, pre-tokeniser, byte-level BPE.
#ifndef CONCLAVE_MOE_TOKENIZER_BPE_TOKENIZER_H_
#define CONCLAVE_MOE_TOKENIZER_BPE_TOKENIZER_H_

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "moe/tokenizer/added_tokens.h"
#include "moe/tokenizer/bpe_merger.h"
#include "moe/tokenizer/pre_tokenizer.h"
#include "moe/tokenizer/tokenizer.h"
#include "moe/tokenizer/tokenizer_config.h"

namespace conclave {

// What a loader reads from its file.
struct BpeModel {
  // By id: the raw bytes of the token; empty for an unused id. A key of the vocabulary that is not spelled in the byte
  // alphabet stands here as it is, and is_word says false: no text merges into it.
  std::vector<std::string> token_bytes;
  std::vector<bool> is_word;
  BpeMerger merger;
  bool ignore_merges = false;  // a word that is a token becomes that token, whatever the merges say
  bool cut_long_text = false;  // into chunks, as TiktokenChunkEnds says
  PreTokenizer pre_tokenizer;
  std::vector<AddedToken> added_tokens;
  // What to do where tokenizer_config.json does not say add_bos_token.
  bool adds_bos_by_default = false;
};

// The tokenizer behind tokenizer.json and tiktoken.model alike.
class BpeTokenizer final : public Tokenizer {
 public:
  // `file` names the model's file in errors, `config_file` that of the configuration. INVALID_ARGUMENT: ids or texts
  // that contradict each other, bytes without a token, a bos_token or eos_token that is no token.
  static absl::StatusOr<std::unique_ptr<BpeTokenizer>> Create(BpeModel model, const TokenizerConfig& config,
                                                              const std::string& file, const std::string& config_file);

  std::vector<int32_t> Encode(absl::string_view text, SpecialText special) const override;
  std::vector<int32_t> EncodeSpans(absl::Span<const TextSpan> spans) const override;
  absl::StatusOr<std::string> Decode(absl::Span<const int32_t> ids, bool skip_special) const override;
  absl::string_view TokenBytes(int32_t id) const override { return model_.token_bytes[id]; }
  bool IsSpecial(int32_t id) const override { return is_special_[id]; }
  int vocab() const override { return static_cast<int>(model_.token_bytes.size()); }
  std::optional<int32_t> bos_id() const override { return bos_id_; }
  std::optional<int32_t> eos_id() const override { return eos_id_; }
  bool add_bos() const override { return add_bos_; }

 private:
  struct Pass;  // one call of Encode
  explicit BpeTokenizer(BpeModel model) : model_(std::move(model)) {}
  absl::Status AddTokens(const TokenizerConfig& config, const std::string& file, const std::string& config_file);
  absl::Status AddToken(const AddedToken& token, const std::string& file);
  absl::Status FindByteTokens(const std::string& file);
  absl::StatusOr<std::optional<int32_t>> FindNamed(const std::optional<std::string>& content, const char* name,
                                                   const std::string& config_file) const;
  void EncodeText(absl::string_view text, Pass* pass) const;
  void EncodeWord(absl::string_view word, Pass* pass) const;

  BpeModel model_;
  std::array<int32_t, 256> byte_ids_;                      // -1: the vocabulary lacks this byte
  absl::flat_hash_map<absl::string_view, int32_t> words_;  // filled only where ignore_merges; views of token_bytes
  absl::flat_hash_map<std::string, int32_t> added_ids_;    // by content
  std::vector<bool> is_special_;
  AddedTokenMatcher first_pass_, second_pass_;  // those that are not normalized; those that are
  std::optional<int32_t> bos_id_, eos_id_;
  bool add_bos_ = false;
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_TOKENIZER_BPE_TOKENIZER_H_
