#include "moe/tokenizer/byte_tokenizer_writer.h"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "moe/base/limits.h"
#include "moe/base/status_macros.h"
#include "moe/tokenizer/byte_level.h"

namespace conclave {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kVocabMin = 256 + 3;  // the bytes, BOS, EOS, padding
constexpr char kBos[] = "<｜begin▁of▁sentence｜>";
constexpr char kEos[] = "<｜end▁of▁sentence｜>";
constexpr char kPad[] = "<｜▁pad▁｜>";

// DeepSeek-V3's split patterns, as its tokenizer.json has them.
constexpr char kWords[] = R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+)"
                          R"(| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kPatterns[] = {R"(\p{N}{1,3})", R"([一-龥぀-ゟ゠-ヿ]+)", kWords};

constexpr char kChatTemplate[] =
    "{%- if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif -%}"
    "{{- bos_token -}}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'system' -%}{{- message['content'] + '\\n\\n' -}}"
    "{%- elif message['role'] == 'user' -%}{{- '<｜User｜>' + message['content'] -}}"
    "{%- elif message['role'] == 'assistant' -%}{{- '<｜Assistant｜>' + message['content'] + eos_token -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<｜Assistant｜>' -}}{%- endif -%}";

// Merged tokens in a fixed order: all words of two letters, then of three, and so on, each made from the word of one
// letter less. The first letter may be a space, as at the start of most words.
class Words {
 public:
  struct Word {
    std::string left, right;
  };
  Word Next() {
    if (letter_ == 26) {
      letter_ = 0;
      if (++prefix_ == level_.size()) {
        level_ = std::move(next_level_);
        next_level_.clear();
        prefix_ = 0;
      }
    }
    Word word{level_[prefix_], std::string(1, static_cast<char>('a' + letter_++))};
    next_level_.push_back(word.left + word.right);
    return word;
  }

 private:
  static std::vector<std::string> FirstLetters() {
    std::vector<std::string> letters = {" "};
    for (char c = 'a'; c <= 'z'; ++c) letters.emplace_back(1, c);
    return letters;
  }
  std::vector<std::string> level_ = FirstLetters(), next_level_;
  size_t prefix_ = 0;
  int letter_ = 0;
};

Json Special(int32_t id, const std::string& content) {
  return {{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", false}, {"special", true}};
}

Json PreTokenizer() {
  Json stages = Json::array();
  for (const char* pattern : kPatterns) {
    const Json regex = {{"Regex", pattern}};
    stages.push_back({{"type", "Split"}, {"pattern", regex}, {"behavior", "Isolated"}, {"invert", false}});
  }
  stages.push_back({{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}});
  return {{"type", "Sequence"}, {"pretokenizers", std::move(stages)}};
}

// Gives out the ids that neither BOS nor EOS holds: bytes first, then special tokens, then merged words.
Json TokenizerJson(int vocab, int32_t bos_id, int32_t eos_id) {
  Json vocabulary = Json::object(), merges = Json::array(), added = Json::array();
  auto& entries = vocabulary.get_ref<Json::object_t&>();
  std::vector<std::string> specials = {kPad, "<｜User｜>", "<｜Assistant｜>", "<think>", "</think>"};
  if (vocab < kVocabMin + 4) specials.resize(1);
  Words words;
  size_t bytes = 0, special = 0;
  for (int32_t id = 0; id < vocab; ++id) {
    std::string key;
    if (id == bos_id || id == eos_id) {
      key = id == bos_id ? kBos : kEos;
      added.push_back(Special(id, key));
    } else if (bytes < 256) {
      key = ByteLevelCharacter(static_cast<uint8_t>(bytes++));
    } else if (special < specials.size()) {
      key = specials[special++];
      added.push_back(Special(id, key));
    } else {
      const Words::Word word = words.Next();
      merges.push_back({ToByteLevel(word.left), ToByteLevel(word.right)});
      key = ToByteLevel(word.left + word.right);
    }
    // Appended without the search for an equal key that assignment does: every key is new.
    static_cast<std::vector<Json::object_t::value_type>&>(entries).emplace_back(std::move(key), id);
  }
  Json model = {{"type", "BPE"},
                {"dropout", nullptr},
                {"unk_token", nullptr},
                {"continuing_subword_prefix", nullptr},
                {"end_of_word_suffix", nullptr},
                {"fuse_unk", false},
                {"byte_fallback", false},
                {"ignore_merges", false},
                {"vocab", std::move(vocabulary)},
                {"merges", std::move(merges)}};
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", std::move(added)},
          {"normalizer", nullptr},
          {"pre_tokenizer", PreTokenizer()},
          {"post_processor", nullptr},
          {"decoder", {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", true}, {"use_regex", true}}},
          {"model", std::move(model)}};
}

absl::Status WriteFile(const std::string& path, const std::string& text) {
  std::ofstream stream(path, std::ios::binary);
  stream << text;
  stream.close();
  if (stream) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("cannot write ", path, ": ", std::strerror(errno)));
}

}  // namespace

absl::Status WriteByteTokenizer(const std::string& directory, int vocab, int32_t bos_id, int32_t eos_id) {
  if (vocab < kVocabMin || vocab > limits::kVocabMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("vocab is ", vocab, "; a byte tokenizer needs ", kVocabMin, " to ", limits::kVocabMax));
  }
  if (bos_id < 0 || bos_id >= vocab || eos_id < 0 || eos_id >= vocab || bos_id == eos_id) {
    return absl::InvalidArgumentError(
        absl::StrCat("bos_id ", bos_id, " and eos_id ", eos_id, " must be two different ids below vocab ", vocab));
  }
  const Json config = {{"add_bos_token", true},
                       {"add_eos_token", false},
                       {"bos_token", kBos},
                       {"eos_token", kEos},
                       {"pad_token", kPad},
                       {"clean_up_tokenization_spaces", false},
                       {"tokenizer_class", "PreTrainedTokenizerFast"},
                       {"chat_template", kChatTemplate}};
  RETURN_IF_ERROR(WriteFile(directory + "/tokenizer.json", TokenizerJson(vocab, bos_id, eos_id).dump()));
  return WriteFile(directory + "/tokenizer_config.json", config.dump(1));
}

}  // namespace conclave
