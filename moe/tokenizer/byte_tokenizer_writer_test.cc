#include "moe/tokenizer/byte_tokenizer_writer.h"

#include <gtest/gtest.h>

#include <set>

#include "moe/base/limits.h"
#include "moe/tokenizer/chat_template.h"
#include "moe/tokenizer/tiny_tokenizer_for_test.h"
#include "moe/tokenizer/tokenizer.h"

namespace conclave {
namespace {

TEST(ByteTokenizerWriterTest, HasExactlyTheVocabularyAskedFor) {
  const std::string directory = FreshDirectory("byte_tokenizer_writer_test");
  const std::pair<int32_t, int32_t> ends[] = {{0, 1}, {257, 258}, {3, 200}};
  for (int vocab : {259, 260, 262, 263, 300, 2048, 32000}) {
    for (const auto& [bos, eos] : ends) {
      ASSERT_TRUE(WriteByteTokenizer(directory, vocab, bos, eos).ok());
      const auto tokenizer = Tokenizer::Load(directory);
      ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
      EXPECT_EQ((*tokenizer)->vocab(), vocab);
      EXPECT_EQ((*tokenizer)->bos_id(), bos);
      EXPECT_EQ((*tokenizer)->eos_id(), eos);
      EXPECT_TRUE((*tokenizer)->add_bos());
      std::set<std::string> distinct;
      for (int32_t id = 0; id < vocab; ++id) distinct.emplace((*tokenizer)->TokenBytes(id));
      EXPECT_EQ(distinct.count(""), 0u);
      EXPECT_EQ(static_cast<int>(distinct.size()), vocab);
      const std::string text = "Hello, the world! \u4e2d\u6587 \U0001F600\n  x = 42\x7f";
      const std::vector<int32_t> ids = (*tokenizer)->Encode(text, SpecialText::kAsTokens);
      EXPECT_EQ((*tokenizer)->Decode(ids, /*skip_special=*/false).value(), text);
    }
  }
}

TEST(ByteTokenizerWriterTest, LargeVocabulariesMergeLetters) {
  const std::string directory = FreshDirectory("byte_tokenizer_writer_test");
  ASSERT_TRUE(WriteByteTokenizer(directory, 129280, 0, 1).ok());
  const auto tokenizer = Tokenizer::Load(directory);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  // Checked with Hugging Face tokenizers.
  EXPECT_EQ((*tokenizer)->Encode("hello world", SpecialText::kAsTokens),
            (std::vector<int32_t>{106, 404, 589, 285, 670, 578}));
}

TEST(ByteTokenizerWriterTest, HasAChatTemplate) {
  const std::string directory = FreshDirectory("byte_tokenizer_writer_test");
  ASSERT_TRUE(WriteByteTokenizer(directory, 2048, 2040, 2041).ok());
  const auto chat = ChatTemplate::Load(directory);
  ASSERT_TRUE(chat.ok()) << chat.status();
  const auto tokenizer = Tokenizer::Load(directory);
  const auto pieces = (*chat)->Render(std::vector<ChatTurn>{{"user", "hello world"}}, /*add_generation_prompt=*/true);
  ASSERT_TRUE(pieces.ok()) << pieces.status();
  // Checked with transformers.
  EXPECT_EQ(EncodePieces(**tokenizer, *pieces), (std::vector<int32_t>{2040, 257, 104, 402, 587, 283, 668, 576, 258}));
}

TEST(ByteTokenizerWriterTest, RefusesWhatCannotBe) {
  const std::string directory = FreshDirectory("byte_tokenizer_writer_test");
  const auto code = [&](int vocab, int32_t bos, int32_t eos) {
    return WriteByteTokenizer(directory, vocab, bos, eos).code();
  };
  EXPECT_EQ(code(258, 0, 1), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(limits::kVocabMax + 1, 0, 1), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(259, -1, 1), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(259, 0, 259), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(259, 4, 4), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(WriteByteTokenizer(directory + "/nowhere", 259, 0, 1).code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace conclave
