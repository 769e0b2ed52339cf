#include "moe/tokenizer/tiny_tokenizer_for_test.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <utility>

#include "moe/base/check.h"
#include "moe/base/test_folder.h"
#include "moe/tokenizer/byte_level.h"

namespace conclave {

using nlohmann::json;

json TinyModel() {
  json vocabulary;
  for (int byte = 0; byte < 256; ++byte) vocabulary[ByteLevelCharacter(static_cast<uint8_t>(byte))] = byte;
  vocabulary["he"] = kTinyHe;
  vocabulary["hel"] = kTinyHel;
  vocabulary["el"] = kTinyEl;
  return {{"type", "BPE"},
          {"vocab", vocabulary},
          {"merges", json::array({json::array({"h", "e"}), json::array({"he", "l"}), json::array({"e", "l"})})}};
}

json TinyTokenizerJson() {
  const json split = {{"type", "Split"},
                      {"pattern", {{"Regex", R"(\s+(?!\S)| ?\S+|\s+)"}}},
                      {"behavior", "Isolated"},
                      {"invert", false}};
  const json byte_level = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}};
  return {{"added_tokens",
           {{{"id", kTinyEnd}, {"content", "<|end|>"}, {"special", true}},
            {{"id", kTinyThink}, {"content", "<think>"}, {"special", false}}}},
          {"normalizer", nullptr},
          {"pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", {split, byte_level}}}},
          {"post_processor", nullptr},
          {"decoder", {{"type", "ByteLevel"}}},
          {"model", TinyModel()}};
}

std::unique_ptr<Tokenizer> TinyTokenizer(const std::map<std::string, json>& replaced, const std::string& config) {
  json file = TinyTokenizerJson();
  for (const auto& [name, value] : replaced) file[name] = value;
  auto tokenizer = Tokenizer::LoadFromJson(file.dump(), config);
  CONCLAVE_CHECK_OK(tokenizer.status());
  return *std::move(tokenizer);
}

std::string FreshDirectory(const std::string& name) {
  const std::string directory = TestFolder() + "/" + name;
  std::filesystem::remove_all(directory);
  std::filesystem::create_directories(directory);
  return directory;
}

}  // namespace conclave
