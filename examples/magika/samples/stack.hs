module Stack (Stack, empty, push, pop, size) where

import qualified Data.List as List

newtype Stack a = Stack [a]
  deriving (Eq, Show)

empty :: Stack a
empty = Stack []

push :: a -> Stack a -> Stack a
push x (Stack xs) = Stack (x : xs)

pop :: Stack a -> Maybe (a, Stack a)
pop (Stack []) = Nothing
pop (Stack (x : xs)) = Just (x, Stack xs)

size :: Stack a -> Int
size (Stack xs) = List.length xs

main :: IO ()
main = print (fmap fst (pop (push (3 :: Int) (push 2 empty))))
