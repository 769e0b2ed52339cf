#include "moe/tokenizer/tiktoken_chunks.h"

#include "moe/tokenizer/utf8.h"

namespace conclave {
namespace {

constexpr int kCharactersMax = 400'000;
constexpr int kRunMax = 25'000;

}  // namespace

std::vector<size_t> TiktokenChunkEnds(absl::string_view text) {
  std::vector<size_t> ends;
  int characters = 0;  // since the last cut at kCharactersMax: one at kRunMax does not start a new count
  int run = 0;
  bool run_is_space = false;
  for (size_t at = 0; at < text.size();) {
    const Utf8Step step = NextUtf8(text.substr(at));
    const bool is_space = step.form == Utf8Form::kCharacter && IsPythonSpace(step.code_point);
    if (characters == kCharactersMax) {
      ends.push_back(at);
      characters = run = 0;
    } else if (run == kRunMax && is_space == run_is_space) {
      ends.push_back(at);
      run = 0;
    }
    run = run > 0 && is_space == run_is_space ? run + 1 : 1;
    run_is_space = is_space;
    ++characters;
    at += step.bytes;
  }
  ends.push_back(text.size());
  return ends;
}

}  // namespace conclave
