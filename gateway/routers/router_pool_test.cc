#include "gateway/routers/router_pool.h"

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "gateway/refusal.h"
#include "gateway/routers/router_pool_fixture_for_test.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST_F(RouterPoolTest, PromptsOfOnePrefixMeetAndOthersSpread) {
  Start(3);
  for (int prefix = 0; prefix < 30; ++prefix) {
    for (int i = 0; i < 3; ++i) {
      const auto recorder = std::make_shared<Recorder>();
      Decode(recorder, Request(prefix));
      ASSERT_TRUE(recorder->Ends());
      EXPECT_EQ(recorder->ids(), Whole());
    }
  }
  size_t total = 0;
  for (const auto& router : routers_) {
    const size_t count = router->requests().size();
    EXPECT_EQ(count % 3, 0u) << "a prefix was split";
    EXPECT_GT(count, 0u);
    total += count;
  }
  EXPECT_EQ(total, 90u);
}

TEST_F(RouterPoolTest, WhatOneRefusesAnotherTakes) {
  Start(2);
  const int first = First();
  routers_[first]->Answer(Refusing(grpc::StatusCode::RESOURCE_EXHAUSTED, "the queue is full"));
  const auto recorder = std::make_shared<Recorder>();
  Decode(recorder);
  ASSERT_TRUE(recorder->Ends());
  EXPECT_TRUE(recorder->end.ok()) << recorder->end;
  EXPECT_EQ(recorder->ids(), Whole());
  EXPECT_EQ(routers_[1 - first]->requests().size(), 1u);
  EXPECT_TRUE(Counted("conclave_gateway_requests_retried_total 1"));
}

TEST_F(RouterPoolTest, WhereAllAreFullTheRefusalNamesTheQueueAndATime) {
  Start(2);
  for (const auto& router : routers_)
    router->Answer(Refusing(grpc::StatusCode::RESOURCE_EXHAUSTED, "the queue is full"));
  const auto recorder = std::make_shared<Recorder>();
  Decode(recorder);
  ASSERT_TRUE(recorder->Ends());
  EXPECT_EQ(recorder->end.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(LimitOf(recorder->end), kLimitQueue);
  EXPECT_TRUE(RetryAfterOf(recorder->end).has_value());
  for (const auto& router : routers_) EXPECT_EQ(router->requests().size(), 1u) << "each is asked once";
}

TEST_F(RouterPoolTest, ThereIsNoRoomWhereEveryServiceHasWhatItTakes) {
  Start(2);
  EXPECT_TRUE(pool_->CheckRoom().ok()) << "they say nothing of limits";
  const auto say = [](uint32_t queued, uint32_t running) {
    return [=](v1::GetStatusResponse& status) {
      status.set_requests_queued(queued);
      status.set_requests_running(running);
      status.set_requests_queued_max(3);
      status.set_requests_running_max(2);
    };
  };
  routers_[0]->SetStatus(say(3, 2));
  routers_[1]->SetStatus(say(1, 2));
  for (int i = 0; i < 2; ++i) ASSERT_TRUE(Says("router_load", options_.addresses[i], i == 0 ? 5 : 3));
  EXPECT_TRUE(pool_->CheckRoom().ok());
  routers_[1]->SetStatus(say(3, 2));
  ASSERT_TRUE(Says("router_load", options_.addresses[1], 5));
  const absl::Status full = pool_->CheckRoom();
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(LimitOf(full), kLimitQueue);
  EXPECT_TRUE(RetryAfterOf(full).has_value());
  EXPECT_TRUE(Counted("conclave_gateway_requests_refused_full_total 1"));
  routers_[1]->Stop();
  ASSERT_TRUE(Says("router_up", options_.addresses[1], 0));
  EXPECT_FALSE(pool_->CheckRoom().ok()) << "the one that is left is full";
  routers_[0]->Stop();
  ASSERT_TRUE(Says("router_up", options_.addresses[0], 0));
  EXPECT_TRUE(pool_->CheckRoom().ok()) << "it is not for want of room";
}

TEST_F(RouterPoolTest, AComplaintDoesNotNameAServiceTwiceInARow) {
  Start(1);
  const std::string& address = options_.addresses[0];
  routers_[0]->Stop();
  ASSERT_TRUE(Says("router_up", address, 0));
  const std::string complaint(pool_->WaitUntilServing(absl::Now()).status().message());
  EXPECT_THAT(complaint, testing::StartsWith(absl::StrCat("no attention service can be used: the attention service at ",
                                                          address, " failed: ")));
}

TEST_F(RouterPoolTest, ItsOwnSequencesCountAtOnce) {
  Start(1);
  routers_[0]->SetStatus([](v1::GetStatusResponse& status) { status.set_requests_running_max(1); });
  routers_[0]->Answer(Decoding(/*until=*/3));
  const auto recorder = std::make_shared<Recorder>();
  bool full = false;
  const auto call = Decode(recorder);
  ASSERT_TRUE(recorder->Gets(3));
  for (int i = 0; i < 1000 && !full; ++i, absl::SleepFor(absl::Milliseconds(10))) full = !pool_->CheckRoom().ok();
  EXPECT_TRUE(full);
  call->Cancel();
  ASSERT_TRUE(recorder->Ends());
  EXPECT_TRUE(pool_->CheckRoom().ok());
}

TEST_F(RouterPoolTest, FurtherAnswersToAPromptWaitForRoom) {
  Start(1);
  std::atomic<int> refusals{0};
  routers_[0]->Answer(
      [&refusals](grpc::ServerContext* context, const v1::DecodeRequest& request, DecodeWriter* writer) {
        if (refusals < 3) {
          ++refusals;
          return grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "the queue is full");
        }
        return Decoding()(context, request, writer);
      });
  v1::DecodeRequest request = Request();
  request.set_choice(1);
  const auto recorder = std::make_shared<Recorder>();
  Decode(recorder, request);
  ASSERT_TRUE(recorder->Ends());
  EXPECT_TRUE(recorder->end.ok()) << recorder->end;
  EXPECT_EQ(recorder->ids(), Whole());
}

TEST_F(RouterPoolTest, AnErrorOfTheRequestIsNotTriedElsewhere) {
  Start(2);
  for (const auto& router : routers_) router->Answer(Refusing(grpc::StatusCode::INVALID_ARGUMENT, "prompt_ids: no"));
  const auto recorder = std::make_shared<Recorder>();
  Decode(recorder);
  ASSERT_TRUE(recorder->Ends());
  EXPECT_EQ(recorder->end.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(routers_[0]->requests().size() + routers_[1]->requests().size(), 1u);
}

TEST_F(RouterPoolTest, TheStreamOfAServiceThatDiesGoesOnAtAnother) {
  Start(2);
  const int first = First();
  routers_[first]->Answer(Decoding(5));
  v1::DecodeRequest request = Request();
  request.mutable_sampling()->set_seed(77);
  request.set_choice(3);
  request.set_max_tokens(99);
  const auto recorder = std::make_shared<Recorder>();
  Decode(recorder, request);
  ASSERT_TRUE(recorder->Gets(5));
  routers_[first]->Stop();
  ASSERT_TRUE(recorder->Ends());
  EXPECT_TRUE(recorder->end.ok()) << recorder->end;
  EXPECT_EQ(recorder->ids(), Whole()) << "none lost, none twice";
  EXPECT_EQ(recorder->finish(), "length");
  const auto resumed = routers_[1 - first]->requests();
  ASSERT_EQ(resumed.size(), 1u);
  EXPECT_THAT(resumed[0].generated_ids(), ElementsAre(100, 101, 102, 103, 104));
  EXPECT_EQ(resumed[0].sampling().seed(), 77u);
  EXPECT_EQ(resumed[0].choice(), 3);
  EXPECT_TRUE(Counted("conclave_gateway_streams_resumed_total 1"));
}

TEST_F(RouterPoolTest, TheStreamOfAServiceThatHangsGoesOnAtAnotherAndLateTokensAreDropped) {
  options_.hang_timeout = absl::Milliseconds(200);
  Start(2);
  const int first = First();
  std::atomic<bool> wake{false};
  routers_[first]->Answer([&wake](grpc::ServerContext*, const v1::DecodeRequest&, DecodeWriter* writer) {
    for (int i = 0; i < 4; ++i) writer->Write(Ids({100 + i}));
    while (!wake) absl::SleepFor(absl::Milliseconds(1));
    for (int i = 4; i < kTokens; ++i) writer->Write(Ids({900 + i}));
    return grpc::Status::OK;
  });
  const auto recorder = std::make_shared<Recorder>();
  Decode(recorder);
  ASSERT_TRUE(recorder->Gets(4));
  routers_[first]->Hang(true);
  ASSERT_TRUE(recorder->Ends());
  EXPECT_TRUE(recorder->end.ok()) << recorder->end;
  wake = true;
  EXPECT_EQ(recorder->ids(), Whole());
  EXPECT_TRUE(Says("router_up", routers_[first]->address, 0));
  routers_[first]->Hang(false);
  EXPECT_TRUE(Says("router_up", routers_[first]->address, 1)) << "who answers again is used again";
}

TEST_F(RouterPoolTest, AStreamThatStandsStillGoesOnElsewhereThoughItsServiceAnswers) {
  options_.stall_timeout = absl::Milliseconds(300);
  Start(2);
  const int first = First();
  routers_[first]->Answer(Decoding(6));
  const auto recorder = std::make_shared<Recorder>();
  Decode(recorder);
  ASSERT_TRUE(recorder->Ends());
  EXPECT_TRUE(recorder->end.ok()) << recorder->end;
  EXPECT_EQ(recorder->ids(), Whole());
}

TEST_F(RouterPoolTest, AStreamWaitsForItsOnlyServiceToComeBack) {
  Start(1);
  const std::string address = routers_[0]->address;
  routers_[0]->Answer(Decoding(5));
  const auto recorder = std::make_shared<Recorder>();
  Decode(recorder);
  ASSERT_TRUE(recorder->Gets(5));
  routers_.clear();
  const auto refused = std::make_shared<Recorder>();
  ASSERT_TRUE(Says("router_up", address, 0));
  Decode(refused);
  ASSERT_TRUE(refused->Ends()) << "a new request is refused once nobody answers";
  EXPECT_EQ(refused->end.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(refused->end.message()), HasSubstr(address));
  EXPECT_TRUE(RetryAfterOf(refused->end).has_value());
  FakeRouter back(address);
  back.Answer(Decoding());
  ASSERT_TRUE(recorder->Ends());
  EXPECT_TRUE(recorder->end.ok()) << recorder->end;
  EXPECT_EQ(recorder->ids(), Whole());
  pool_.reset();
}

TEST_F(RouterPoolTest, ARequestWaitsForTheAnswerOfAServiceThatWasStoppedAndGoesOn) {
  options_.hang_timeout = absl::Milliseconds(300);
  Start(1);
  routers_[0]->Hang(true);
  ASSERT_TRUE(Says("router_up", routers_[0]->address, 0));
  const auto recorder = std::make_shared<Recorder>(), late = std::make_shared<Recorder>();
  Decode(recorder);
  pool_->Decode(-1, Request(), absl::Now() + absl::Milliseconds(20), {}, late);
  ASSERT_TRUE(late->Ends());
  EXPECT_EQ(late->end.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(late->end.message()), HasSubstr(routers_[0]->address));
  EXPECT_FALSE(recorder->ended.HasBeenNotified());
  routers_[0]->Hang(false);
  ASSERT_TRUE(recorder->Ends());
  EXPECT_TRUE(recorder->end.ok()) << recorder->end;
  EXPECT_EQ(recorder->ids(), Whole());
}

TEST_F(RouterPoolTest, ARequestHasServicesAskedThatMayHaveComeBack) {
  Start(1);
  const std::string address = routers_[0]->address;
  pool_.reset();
  options_.poll_interval = absl::Hours(1);  // nobody asks on his own
  Open();
  routers_.clear();
  const auto notices = std::make_shared<Recorder>();
  Decode(notices);
  ASSERT_TRUE(notices->Ends());
  EXPECT_EQ(notices->end.code(), absl::StatusCode::kUnavailable);
  FakeRouter back(address);
  back.Answer(Decoding());
  // On a busy machine the answer to the question may come after the request that had it asked has given up.
  std::shared_ptr<Recorder> recorder;
  for (int i = 0; i < 20 && (recorder == nullptr || absl::IsUnavailable(recorder->end)); ++i) {
    recorder = std::make_shared<Recorder>();
    Decode(recorder);
    ASSERT_TRUE(recorder->Ends());
  }
  EXPECT_TRUE(recorder->end.ok()) << recorder->end;
  EXPECT_EQ(recorder->ids(), Whole());
  pool_.reset();
}

TEST_F(RouterPoolTest, AStreamWaitsNoLongerThanItMayAndEndsWhenItIsCancelled) {
  options_.resume_wait = absl::Milliseconds(300);
  Start(1);
  routers_[0]->Answer(Decoding(5));
  const auto waits = std::make_shared<Recorder>(), leaves = std::make_shared<Recorder>();
  Decode(waits);
  const auto call = Decode(leaves);
  ASSERT_TRUE(waits->Gets(5));
  ASSERT_TRUE(leaves->Gets(5));
  routers_[0]->Stop();
  call->Cancel();
  ASSERT_TRUE(leaves->Ends());
  EXPECT_EQ(leaves->end.code(), absl::StatusCode::kCancelled);
  ASSERT_TRUE(waits->Ends());
  EXPECT_EQ(waits->end.code(), absl::StatusCode::kUnavailable);
}

TEST_F(RouterPoolTest, NobodyWaitsForAServiceOnceTheGatewayStops) {
  Start(1);
  routers_[0]->Answer(Decoding(5));
  const auto recorder = std::make_shared<Recorder>();
  Decode(recorder);
  ASSERT_TRUE(recorder->Gets(5));
  routers_[0]->Stop();
  EXPECT_FALSE(recorder->ended.WaitForNotificationWithTimeout(absl::Milliseconds(300)));
  pool_->StopWaiting();
  ASSERT_TRUE(recorder->Ends());
  EXPECT_EQ(recorder->end.code(), absl::StatusCode::kUnavailable);
}

TEST_F(RouterPoolTest, ASequenceThatKillsItsServiceDoesNotKillThemAll) {
  Start(1);
  // Every attempt ends as if the service had died, though it is back at once.
  routers_[0]->Answer([](grpc::ServerContext* context, const v1::DecodeRequest&, DecodeWriter*) {
    context->TryCancel();
    return grpc::Status::CANCELLED;
  });
  options_.addresses.push_back("127.0.0.1:1");
  pool_ = RouterPool::Create(options_, *metrics_);
  ASSERT_TRUE(pool_->WaitUntilServing(absl::Now() + absl::Seconds(10)).ok());
  for (int i = 0; i < 20; ++i) {
    const auto recorder = std::make_shared<Recorder>();
    Decode(recorder);
    ASSERT_TRUE(recorder->Ends());
    EXPECT_FALSE(recorder->end.ok());
    ASSERT_TRUE(Says("router_up", routers_[0]->address, 1));
  }
  EXPECT_LE(routers_[0]->requests().size(), 20u * 4);
}

TEST_F(RouterPoolTest, AnExpertThatOneServiceMissesAnotherMayReach) {
  Start(2);
  const int first = First();
  routers_[first]->Answer(Refusing(grpc::StatusCode::UNAVAILABLE, "layer 3 expert 7: no holder answered"));
  const auto taken = std::make_shared<Recorder>();
  Decode(taken);
  ASSERT_TRUE(taken->Ends());
  EXPECT_EQ(taken->ids(), Whole());
  routers_[1 - first]->Answer(Refusing(grpc::StatusCode::UNAVAILABLE, "layer 3 expert 7: no holder answered"));
  const auto refused = std::make_shared<Recorder>();
  Decode(refused);
  ASSERT_TRUE(refused->Ends());
  EXPECT_EQ(refused->end.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(refused->end.message()), HasSubstr("layer 3 expert 7"));
}

TEST_F(RouterPoolTest, AServiceThatStopsGetsNothingNew) {
  Start(2);
  const int first = First();
  routers_[first]->SetStatus([](v1::GetStatusResponse& status) { status.set_draining(true); });
  ASSERT_TRUE(Says("router_up", routers_[first]->address, 0));
  const auto recorder = std::make_shared<Recorder>();
  Decode(recorder);
  ASSERT_TRUE(recorder->Ends());
  EXPECT_EQ(recorder->ids(), Whole());
  EXPECT_THAT(routers_[first]->requests(), IsEmpty());
}

TEST_F(RouterPoolTest, AServiceWithOtherNumbersIsNotUsed) {
  Start(2);
  routers_[1]->SetStatus([](v1::GetStatusResponse& status) { status.set_numeric_profile("bf16"); });
  ASSERT_TRUE(Says("router_up", routers_[1]->address, 0));
  EXPECT_EQ(pool_->fingerprint(), "tiny/f32");
  for (int prefix = 0; prefix < 20; ++prefix) {
    const auto recorder = std::make_shared<Recorder>();
    Decode(recorder, Request(prefix));
    ASSERT_TRUE(recorder->Ends());
  }
  EXPECT_THAT(routers_[1]->requests(), IsEmpty());
}

TEST_F(RouterPoolTest, TellsWhetherAnyServiceServes) {
  Start(2);
  std::atomic<int> serving{-1};
  pool_->WatchServing([&serving](bool now) { serving = now; });
  const auto comes = [&serving](int value) {
    for (int i = 0; i < 1000 && serving != value; ++i) absl::SleepFor(absl::Milliseconds(10));
    return serving == value;
  };
  EXPECT_TRUE(comes(1));
  routers_[0]->Stop();
  ASSERT_TRUE(Says("router_up", routers_[0]->address, 0));
  EXPECT_TRUE(pool_->serving()) << "one is enough";
  routers_[1]->Stop();
  EXPECT_TRUE(comes(0));
  pool_->WatchServing(nullptr);
}

TEST_F(RouterPoolTest, ManyStreamsSurviveTheDeathOfTheirService) {
  Start(2);
  for (const auto& router : routers_) {
    router->Answer([](grpc::ServerContext* context, const v1::DecodeRequest& request, DecodeWriter* writer) {
      for (int i = request.generated_ids_size(); i < kTokens; ++i) {
        if (context->IsCancelled()) return grpc::Status::CANCELLED;
        writer->Write(Ids({100 + i}, i + 1 == kTokens ? "length" : ""));
        absl::SleepFor(absl::Milliseconds(10));
      }
      return grpc::Status::OK;
    });
  }
  std::vector<std::shared_ptr<Recorder>> recorders;
  std::vector<std::shared_ptr<DecodeCall>> calls;
  for (int i = 0; i < 60; ++i) {
    recorders.push_back(std::make_shared<Recorder>());
    calls.push_back(Decode(recorders.back(), Request(i)));
  }
  ASSERT_TRUE(recorders[59]->Gets(3));
  routers_[0]->Stop();
  for (const auto& recorder : recorders) {
    ASSERT_TRUE(recorder->Ends());
    EXPECT_TRUE(recorder->end.ok()) << recorder->end;
    EXPECT_EQ(recorder->ids(), Whole());
  }
}

TEST_F(RouterPoolTest, TheLoadOfAllServicesIsShownToBalancersBeforeUs) {
  Start(2);
  routers_[0]->SetStatus([](v1::GetStatusResponse& status) {
    status.set_requests_queued(3);
    status.set_requests_running(4);
    status.set_kv_blocks_used(10);
    status.set_kv_blocks_total(100);
  });
  routers_[1]->SetStatus([](v1::GetStatusResponse& status) {
    status.set_requests_queued(1);
    status.set_kv_blocks_used(70);
    status.set_kv_blocks_cached(30);
    status.set_kv_blocks_total(100);
  });
  const auto shows = [&](const std::string& line) {
    for (int i = 0; i < 1000 && !Counted(line); ++i) absl::SleepFor(absl::Milliseconds(10));
    return Counted(line);
  };
  EXPECT_TRUE(shows("conclave_gateway_backend_requests_queued 4"));
  EXPECT_TRUE(shows("conclave_gateway_backend_requests_running 4"));
  EXPECT_TRUE(shows("conclave_gateway_backend_kv_cache_used_ratio 0.25"));
}

}  // namespace
}  // namespace conclave
