#include "moe/tokenizer/pre_tokenizer.h"

#include <algorithm>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace conclave {
namespace {

using Piece = PreTokenizer::Scratch::Piece;

// Joins every match to the piece before it, but a match to a match only where `contiguous`; then also the pieces
// between matches, which never touch each other, stay as they are.
void MergeIntoPrevious(bool contiguous, std::vector<Piece>* pieces) {
  size_t kept = 0;
  bool previous_match = false;
  for (const Piece& piece : *pieces) {
    const bool join = contiguous ? piece.is_match == previous_match : piece.is_match && !previous_match;
    previous_match = piece.is_match;
    if (join && kept > 0) {
      (*pieces)[kept - 1].end = piece.end;
    } else {
      (*pieces)[kept++] = piece;
    }
  }
  pieces->resize(kept);
}

void MergeIntoNext(std::vector<Piece>* pieces) {
  size_t kept = pieces->size();  // the kept ones gather at the back
  bool next_match = false;
  for (size_t i = pieces->size(); i-- > 0;) {
    const Piece piece = (*pieces)[i];
    const bool join = piece.is_match && !next_match;
    next_match = piece.is_match;
    if (join && kept < pieces->size()) {
      (*pieces)[kept].begin = piece.begin;
    } else {
      (*pieces)[--kept] = piece;
    }
  }
  pieces->erase(pieces->begin(), pieces->begin() + kept);
}

}  // namespace

void PreTokenizer::AddSplit(Regex regex, SplitBehavior behavior, bool invert) {
  Stage stage;
  stage.regex.push_back(std::move(regex));
  stage.behavior = behavior;
  stage.invert = invert;
  stages_.push_back(std::move(stage));
}

void PreTokenizer::AddPrefixSpace() { stages_.emplace_back(); }

void PreTokenizer::ForEachWord(absl::string_view text, Scratch* scratch,
                               absl::FunctionRef<void(absl::string_view)> word) const {
  scratch->pieces.resize(std::max(scratch->pieces.size(), stages_.size()));
  RunStage(0, text, scratch, word);
}

// Recursion is as deep as there are stages, which the loader limits.
void PreTokenizer::RunStage(size_t index, absl::string_view text, Scratch* scratch,
                            absl::FunctionRef<void(absl::string_view)> word) const {
  if (text.empty()) return;
  if (index == stages_.size()) return word(text);
  const Stage& stage = stages_[index];
  if (stage.regex.empty()) {
    if (absl::StartsWith(text, " ")) return RunStage(index + 1, text, scratch, word);
    const std::string prefixed = absl::StrCat(" ", std::string(text));
    return RunStage(index + 1, prefixed, scratch, word);
  }
  std::vector<Piece>& pieces = scratch->pieces[index];
  pieces.clear();
  size_t previous_end = 0;
  stage.regex[0].ForEachMatch(text, &scratch->regex, [&](size_t begin, size_t end) {
    if (begin > previous_end) pieces.push_back({previous_end, begin, stage.invert});
    pieces.push_back({begin, end, !stage.invert});
    previous_end = end;
  });
  if (previous_end < text.size()) pieces.push_back({previous_end, text.size(), stage.invert});
  if (stage.behavior == SplitBehavior::kMergedWithPrevious) MergeIntoPrevious(/*contiguous=*/false, &pieces);
  if (stage.behavior == SplitBehavior::kContiguous) MergeIntoPrevious(/*contiguous=*/true, &pieces);
  if (stage.behavior == SplitBehavior::kMergedWithNext) MergeIntoNext(&pieces);
  const bool remove_matches = stage.behavior == SplitBehavior::kRemoved;
  for (const Piece& piece : pieces) {
    if (remove_matches && piece.is_match) continue;
    RunStage(index + 1, text.substr(piece.begin, piece.end - piece.begin), scratch, word);
  }
}

}  // namespace conclave
